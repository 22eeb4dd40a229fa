"""A folder of label maps that is being written: one path per image, and a record of what the maps depend on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hf_relabel.errors import SourceError, StageError
from hf_relabel.labeling.label_maps import LabelMapError, label_map_path
from hf_relabel.run.store import atomic_open, differences, read_json

RECORD = "label_maps.json"

UNKNOWN = {"model": "unknown"}
"""What made the maps of a folder without a record, such as ReLabel's own."""

MAX_HALF = 2048
"""Number of classes up to which half precision stores every class index exactly."""


def label_map_paths(image_ids: Sequence[str], folder: Path) -> list[Path]:
    """Path of each image's label map.

    Raises:
        SourceError: An id is not a path below the folder, or two images would have the same map.
    """
    paths: dict[Path, str] = {}
    for image_id in image_ids:
        try:
            path = label_map_path(folder, image_id)
        except LabelMapError as error:
            raise SourceError(f"label maps: {error}") from error
        if path in paths:
            raise SourceError(
                f"images {paths[path]!r} and {image_id!r} would both have the map {path.name}; rename one of them"
            )
        paths[path] = image_id
    return list(paths)


def check_folder(folder: Path, record: dict[str, Any], overwrite: bool) -> None:
    """Refuse a folder that has other files, or maps that were made with other settings.

    Args:
        folder: The folder, which need not exist.
        record: What the maps depend on.
        overwrite: Allow other settings, as all maps are made again.

    Raises:
        StageError: Maps must not be written there.
    """
    before = read_json(folder / RECORD) if folder.is_dir() else None
    if before is None and folder.is_dir() and any(folder.iterdir()):
        raise StageError(f"{folder}: contains other files than label maps; choose another folder")
    if before is not None and not overwrite and (changed := differences(before, record)):
        raise StageError(
            f"{folder}: has label maps made with other settings ({'; '.join(changed[:3])}); choose another folder, or "
            "make them again with --overwrite"
        )


def maker_of(folder: Path) -> dict[str, Any]:
    """What made the maps of a folder: a classifier, or a labeler and its backbone, as recorded when they were written.

    Raises:
        StageError: The record cannot be read.
    """
    record = read_json(folder / RECORD)
    if not isinstance(record, dict):
        return UNKNOWN
    return {key: value for key, value in record.items() if key != "class_names"}


def write_label_map(path: Path, label_map: torch.Tensor, classes: int) -> None:
    """Write a label map, [2, k, h, w], in half precision if that stores every one of the classes exactly."""
    kind = torch.float16 if classes <= MAX_HALF else torch.float32
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path) as file:
        torch.save(label_map.to(kind).cpu().clone(), file)

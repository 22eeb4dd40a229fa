"""Import image-level labels from ReLabel's label maps (Yun et al., CVPR 2021; see `labeling.label_maps`).

The rule is the scoring of a proposal (arXiv 2603.05729, section 3) with the whole image as its mask: the mean of the
map's logits over all grid cells (0 for a class outside a cell's top 5), followed by a softmax over all classes. Labels
are at most `top_k` classes with a probability of at least `threshold`, highest first. The original label is the class
of the folder; it is not added to the labels.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_relabel.errors import FormatError, UsageError
from hf_relabel.formats.releases import Imported, Names, class_list, provenance, tables
from hf_relabel.labeling.label_maps import LabelMapError, read_label_map, score_under_mask
from hf_relabel.release.writer import write_release
from hf_relabel.run.progress import progress_bar
from hf_relabel.run.ranks import Rank
from hf_relabel.schema import Excluded
from hf_relabel.sources.image_ids import is_safe

SUFFIX = ".pt"


def import_label_maps(
    maps: Path,
    folder: Path,
    *,
    names: Names,
    class_names: str | None = None,
    threshold: float = 0.1,
    top_k: int = 5,
    image_suffix: str = ".JPEG",
    overwrite: bool = False,
) -> Imported:
    """Write a release with the labels from a folder of label maps, `<class folder>/<image name>.pt`.

    It has no regions; image sizes are unknown and set to 0. An image with an unreadable map is excluded with a reason.

    Args:
        maps: The folder.
        folder: The release folder.
        names: Name, version and split of the release.
        class_names: File with the classes, keyed by class folder; by default ImageNet-1k's.
        threshold: Minimum probability of a label, from 0 to 1.
        top_k: Maximum number of labels per image.
        image_suffix: Suffix of the images instead of `.pt`.
        overwrite: Replace an existing release.

    Raises:
        UsageError: A setting is out of range.
        FormatError: The folder is missing or contains no readable label maps.
        SourceError: A folder is not one of the classes.
        ReleaseError: The release cannot be written.
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"--threshold: must be from 0 to 1, got {threshold:g}")
    if top_k < 1:
        raise UsageError(f"--top-k: must be 1 or more, got {top_k}")
    classes = class_list(class_names)
    found, others = _find(maps)
    class_folders = sorted({name.split("/")[0] for name in found})
    label_of = classes.indices(class_folders, str(maps))
    excluded: list[Excluded] = []

    def rows() -> Iterator[dict[str, Any]]:
        with progress_bar(len(found), "label maps", "images", Rank(0, 1, 1, torch.device("cpu"), 1)) as bar:
            for image_id, name in sorted((name.removesuffix(SUFFIX) + image_suffix, name) for name in found):
                bar.update(1)
                try:
                    labels, scores = _ranking(maps / name, len(classes.names), threshold, top_k)
                except LabelMapError as error:
                    excluded.append(Excluded(image_id, str(error)))
                    continue
                yield {
                    "image_id": image_id,
                    "label": label_of[name.split("/")[0]],
                    "labels": labels,
                    "scores": scores,
                    "width": 0,
                    "height": 0,
                    "regions": [],
                }
        if len(excluded) == len(found):
            raise FormatError(f"{maps}: none of its {len(found)} label maps can be read: {excluded[0].reason}")

    settings = {"threshold": threshold, "top_k": top_k, "rule": "softmax of the mean logits over the map's grid cells"}
    release = write_release(
        folder,
        {names.split: tables(rows(), classes.names)},
        class_names=classes.names,
        version=names.version,
        name=names.name,
        provenance=provenance(format="relabel", folder=maps.resolve().name, **settings),
        excluded=excluded,
        overwrite=overwrite,
    )
    facts = {key: release.statistics[key] for key in ("images", "labels")}
    left_out = {f"images: {reason}": count for reason, count in release.statistics["excluded"].items()}
    return Imported(folder, facts, left_out | {f"files other than <class folder>/<name>{SUFFIX}": others})


def _find(maps: Path) -> tuple[list[str], int]:
    """Relative paths of the label maps in the folder, with slashes, and the number of other files."""
    if not maps.is_dir():
        raise FormatError(f"{maps}: no such folder; give the folder that contains <class folder>/<image name>{SUFFIX}")
    found, others = [], 0
    for root, _, files in os.walk(maps):
        below = Path(root).relative_to(maps).as_posix()
        for file in files:
            name = f"{below}/{file}"
            if below == "." or not file.endswith(SUFFIX):
                others += 1
            elif not is_safe(name):
                raise FormatError(f"{maps}: the file name {name!a} has characters that are not allowed in an image id")
            else:
                found.append(name)
    if not found:
        raise FormatError(f"{maps}: contains no label maps, which are expected at <class folder>/<image name>{SUFFIX}")
    return found, others


def _ranking(path: Path, classes: int, threshold: float, top_k: int) -> tuple[list[int], list[float]]:
    """Labels from a map, highest probability first, and their probabilities."""
    label_map = read_label_map(path, classes)
    whole = np.ones(label_map.shape[2:], bool)
    probabilities = score_under_mask(label_map, whole, classes).numpy()
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    kept = [int(label) for label in order if probabilities[label] >= threshold]
    return kept, probabilities[kept].tolist()

"""A release as COCO JSON (`coco_fields`), written as a stream: no more than a few thousand rows are in memory.

Every image and annotation is a line of its own, in the order of the release.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from hf_relabel.errors import ReleaseError
from hf_relabel.formats.coco_fields import EXCLUDED, FIRST_CATEGORY_ID, LABELS, ORIGINAL, RELEASE, TOP_LABELS
from hf_relabel.formats.output import new_file
from hf_relabel.release.layout import EXCLUDED as EXCLUDED_FILE
from hf_relabel.release.reader import Release
from hf_relabel.schema import SCHEMA_VERSION

CARRIES = (
    "Carried: every image with its size, original label, labels and scores; every region with its mask, box, area, "
    "classes and scores; class names, name, version, split, provenance and the images left out. "
    "Not carried: how the rows were cut into files."
)

IMAGE_COLUMNS = ["image_id", "label", "labels", "scores", "width", "height"]


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Args:
        images: Images.
        labels: Labels of images.
        regions: Annotations.
    """

    images: int
    labels: int
    regions: int


def export_coco(release: Release, path: Path, *, overwrite: bool = False) -> Exported:
    """Write a release as one COCO JSON file.

    Raises:
        FormatError: A file is in the way, or the place cannot be written.
        ReleaseError: A file of the release cannot be read.
    """
    with new_file(path, overwrite) as file:
        return write_coco(release, file)


def write_coco(release: Release, file: IO) -> Exported:
    """Write a release's COCO JSON into an open text file."""
    images = labels = regions = 0

    def image_items() -> Iterator[dict[str, Any]]:
        nonlocal images, labels
        for row in release.rows("regions", IMAGE_COLUMNS):
            images += 1
            labels += len(row["labels"])
            yield _image(images, row)

    def annotation_items() -> Iterator[dict[str, Any]]:
        nonlocal regions
        for image, row in enumerate(release.rows("regions", ["image_id", "regions"]), start=1):
            for region in row["regions"]:
                regions += 1
                yield _annotation(regions, image, region)

    categories = ({"id": _category(index), "name": name} for index, name in enumerate(release.class_names))
    file.write('{\n"info": ' + _json(_info(release)))
    _write_list(file, "categories", categories)
    _write_list(file, "images", image_items())
    _write_list(file, "annotations", annotation_items())
    _write_list(file, EXCLUDED, _excluded(release))
    file.write("\n}\n")
    return Exported(images, labels, regions)


def _excluded(release: Release) -> Iterator[dict[str, Any]]:
    """The images that were left out, of which the release has a file with one JSON object a line."""
    path = release.folder / EXCLUDED_FILE
    try:
        with open(path, encoding="utf-8") as file:
            yield from map(json.loads, file)
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{path}: cannot be read ({error}); build or download the release again") from error


def _write_list(file: IO, key: str, items: Iterable[dict[str, Any]]) -> None:
    file.write(f',\n"{key}": [')
    for number, item in enumerate(items):
        file.write((",\n" if number else "\n") + _json(item))
    file.write("\n]")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _info(release: Release) -> dict[str, Any]:
    return {
        "description": f"{release.name} {release.version}",
        "version": release.version,
        RELEASE: {
            "schema_version": SCHEMA_VERSION,
            "version": release.version,
            "name": release.name,
            "split": release.split,
            "provenance": release.provenance,
        },
    }


def _image(image: int, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": image,
        "file_name": row["image_id"],
        "width": row["width"],
        "height": row["height"],
        ORIGINAL: _category(row["label"]),
        LABELS: list(map(_category, row["labels"])),
        "scores": _shortest(row["scores"]),
    }


def _annotation(annotation: int, image: int, region: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": annotation,
        "image_id": image,
        "category_id": _category(region["label"]),
        "segmentation": region["segmentation"],
        "bbox": region["bbox"],
        "area": region["area"],
        "iscrowd": 0,
        "score": _shortest([region["score"]])[0],
        "region_id": region["region_id"],
        TOP_LABELS: list(map(_category, region["top_labels"])),
        "top_scores": _shortest(region["top_scores"]),
    }


def _category(label: int) -> int:
    return label + FIRST_CATEGORY_ID


def _shortest(scores: list[float]) -> list[float]:
    """The numbers with the fewest digits that are the same float32."""
    return [float(str(np.float32(score))) for score in scores]

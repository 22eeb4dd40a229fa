"""Export a release as COCO JSON (`coco_fields`). At most a few thousand rows are in memory.

Each image and annotation is on its own line, in the order of the release.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from hf_relabel.config.checks import regular_file
from hf_relabel.errors import ReleaseError
from hf_relabel.formats.coco_fields import (
    EXCLUDED,
    FIRST_CATEGORY_ID,
    LABELS,
    ORIGINAL,
    PROBABILITY,
    RELEASE,
    SUPERCATEGORY,
    TOP_LABELS,
)
from hf_relabel.formats.mask_formats import MaskFormat, probability_of, segmentation_of
from hf_relabel.formats.output import new_file
from hf_relabel.release.layout import EXCLUDED as EXCLUDED_FILE
from hf_relabel.release.reader import Release
from hf_relabel.schema import SCHEMA_VERSION

CARRIES = (
    "Exported: all images with size, original label and its label_score, labels and scores; all regions with mask, "
    "box, area, classes, scores and generator; class names, name, version, split, provenance and excluded images. "
    "Not exported: how the rows are divided into files."
)

IMAGE_COLUMNS = ["image_id", "label", "labels", "scores", "label_score", "width", "height"]
REGION_COLUMNS = ["image_id", "labels", "scores", "regions"]


@dataclass(frozen=True)
class Exported:
    """Number of images, image labels and regions that an export wrote."""

    images: int
    labels: int
    regions: int


def export_coco(release: Release, path: Path, *, masks: MaskFormat = "rle", overwrite: bool = False) -> Exported:
    """Write a release as one COCO JSON file.

    Raises:
        FormatError: The file exists or cannot be written.
        ReleaseError: A file of the release cannot be read.
    """
    with new_file(path, overwrite) as file:
        return write_coco(release, file, masks)


def write_coco(release: Release, file: IO, masks: MaskFormat = "rle") -> Exported:
    """Write a release as COCO JSON to an open text file."""
    images = labels = regions = 0

    def image_items() -> Iterator[dict[str, Any]]:
        nonlocal images, labels
        for row in release.rows("regions", IMAGE_COLUMNS):
            images += 1
            labels += len(row["labels"])
            yield _image(images, row)

    def annotation_items() -> Iterator[dict[str, Any]]:
        nonlocal regions
        for image, row in enumerate(release.rows("regions", REGION_COLUMNS), start=1):
            for region in row["regions"]:
                regions += 1
                yield _annotation(regions, image, region, row, masks)

    categories = (
        {"id": _category(index), "name": name, "supercategory": SUPERCATEGORY}
        for index, name in enumerate(release.class_names)
    )
    file.write('{\n"info": ' + _json(_info(release)))
    _write_list(file, "categories", categories)
    _write_list(file, "images", image_items())
    _write_list(file, "annotations", annotation_items())
    _write_list(file, EXCLUDED, _excluded(release))
    file.write("\n}\n")
    return Exported(images, labels, regions)


def _excluded(release: Release) -> Iterator[dict[str, Any]]:
    """The excluded images; the release lists them in a file with one JSON object per line."""
    path = release.folder / EXCLUDED_FILE
    try:
        with open(regular_file(path), encoding="utf-8") as file:
            for row in map(json.loads, file):
                if row.pop("split", release.split) == release.split:
                    yield row
    except (OSError, ValueError, AttributeError, RecursionError) as error:  # not JSON, or not an object
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
    score = {} if row["label_score"] is None else {"label_score": _shortest([row["label_score"]])[0]}
    return {
        "id": image,
        "file_name": row["image_id"],
        "width": row["width"],
        "height": row["height"],
        ORIGINAL: None if row["label"] is None else _category(row["label"]),
        LABELS: list(map(_category, row["labels"])),
        "scores": _shortest(row["scores"]),
        **score,
    }


def _annotation(
    annotation: int, image: int, region: dict[str, Any], row: dict[str, Any], masks: MaskFormat
) -> dict[str, Any]:
    probability = probability_of(region["label"], row)
    generator = {} if region["generator"] is None else {"generator": region["generator"]}
    return {
        "id": annotation,
        "image_id": image,
        "category_id": _category(region["label"]),
        "segmentation": segmentation_of(region["segmentation"], masks),
        "bbox": region["bbox"],
        "area": region["area"],
        "iscrowd": 0,
        "score": _shortest([region["score"]])[0],
        **({} if probability is None else {PROBABILITY: _shortest([probability])[0]}),
        "region_id": region["region_id"],
        TOP_LABELS: list(map(_category, region["top_labels"])),
        "top_scores": _shortest(region["top_scores"]),
        **generator,
    }


def _category(label: int) -> int:
    return label + FIRST_CATEGORY_ID


def _shortest(scores: list[float]) -> list[float]:
    """Round each score to the fewest digits that give the same float32."""
    return [float(str(np.float32(score))) for score in scores]

"""What people changed in an export of a release, found by comparing it with the release.

Regions are found again by their id, or, as many tools drop fields that they do not know, by their mask.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from pycocotools import mask as coco

from hf_relabel.release.reader import Release

SAME_REGION = 0.5
"""Overlap (IoU) of an edited mask with a region of the release from which it is that region."""

PART_OF_REGION = 0.8
"""Share of a part of an edited mask, such as one of several polygons, that must be inside a region to belong to it."""


@dataclass(frozen=True)
class EditedRegion:
    """A region in an edited file.

    Args:
        region_id: Its id in the release; None if the file no longer has it.
        label: Name of its class.
        segmentation: Its mask as COCO RLE; None if the file has none.
        is_part: The mask may be only a part of the region.
    """

    region_id: str | None
    label: str
    segmentation: dict[str, Any] | None
    is_part: bool = False


@dataclass(frozen=True)
class EditedImage:
    """An image in an edited file.

    Args:
        image_id: Its id, or its file name.
        labels: Names of its labels; None if the file shows only regions.
        regions: Its regions.
        who: Who edited it; None if the file does not say.
        when: Time, ISO 8601; None if the file does not say.
        shows_labels: The tool shows labels besides regions, so that labels that were left alone are confirmed.
    """

    image_id: str
    labels: frozenset[str] | None
    regions: list[EditedRegion]
    who: str | None = None
    when: str | None = None
    shows_labels: bool = False


@dataclass(frozen=True)
class Edit:
    """A change of a label (`old`, `new`: whether it is listed) or of a region (classes; None is no object)."""

    image: EditedImage
    image_id: str
    label: str | None
    region: str | None
    old: bool | str | None
    new: bool | str | None


@dataclass
class Edits:
    """The changes in an edited file.

    Args:
        edits: The changes.
        images: Number of images that were compared.
        unknown_images: Number of images of the file that the release does not have.
        unknown_classes: Number of labels and regions whose class the release does not have; they are left out.
        new_masks: Number of regions that the release does not have. Only their class is taken, as a label.
    """

    edits: list[Edit] = field(default_factory=list)
    images: int = 0
    unknown_images: int = 0
    unknown_classes: int = 0
    new_masks: int = 0


def find_edits(release: Release, edited: Iterable[EditedImage]) -> Edits:
    """Compare an edited file with the release that it was exported from. Images that the file lacks are unchanged."""
    found = Edits()
    by_id = {image.image_id: image for image in edited}
    # Some tools keep only the file name. It identifies an image if it is unique in the release.
    ids = [row["image_id"] for row in release.rows("labels", ["image_id"])]
    names = Counter(PurePosixPath(image_id).name for image_id in ids)
    for row in release.rows("regions", ["image_id", "label", "labels", "regions"]):
        name = PurePosixPath(row["image_id"]).name
        image = by_id.get(row["image_id"]) or (by_id.get(name) if names[name] == 1 else None)
        if image is not None:
            found.images += 1
            found.edits += _edits_of(image, row, release.class_names, found)
    found.unknown_images = len(by_id) - found.images
    return found


def _edits_of(image: EditedImage, row: dict[str, Any], names: Sequence[str], found: Edits) -> Iterator[Edit]:
    known = set(names)

    def edit(label: str | None, region: str | None, old: Any, new: Any) -> Edit:
        return Edit(image, row["image_id"], label, region, old, new)

    listed = {names[label] for label in row["labels"]}
    given = None if row["label"] is None else names[row["label"]]
    now, added = _matched(image, row["regions"], names)
    gone: set[str] = set()
    shown: set[str] = set()
    for region in row["regions"]:
        old, new = names[region["label"]], now.get(region["region_id"])
        if new is not None and new not in known:
            found.unknown_classes += 1
            new = old
        if new != old:
            gone.add(old)
            yield edit(None, region["region_id"], old, new)
        if new is not None:
            shown.add(new)
    found.new_masks += len(added)
    wanted: set[str] = {label for label in added if label in known}
    if image.labels is not None and (image.shows_labels or image.labels != listed):
        found.unknown_classes += len(image.labels - known)
        wanted |= image.labels & known
        removed = listed - image.labels
    else:
        # The tool showed only regions: an added label whose regions were all removed or renamed is taken to be false.
        removed = {label for label in gone - shown - wanted if label in listed and label != given}
    found.unknown_classes += sum(label not in known for label in added)
    for label in sorted(wanted - listed - (shown - listed)):
        yield edit(label, None, False, True)
    for label in sorted(removed - wanted):
        yield edit(label, None, True, False)


def _matched(
    image: EditedImage, regions: Sequence[dict[str, Any]], names: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """The class of each region of the release that is still there, by id, and the classes of other regions."""
    now: dict[str, str] = {}
    added: list[str] = []
    ids = {region["region_id"] for region in regions}
    for item in image.regions:
        if item.region_id in ids:
            now[str(item.region_id)] = item.label
    left = [region for region in regions if region["region_id"] not in now]
    for item in image.regions:
        if item.region_id in ids:
            continue
        place = _same_region(item, left, names)
        if place is None:
            added.append(item.label)
        else:
            now[left[place]["region_id"]] = item.label
    return now, added


def _same_region(item: EditedRegion, regions: Sequence[dict[str, Any]], names: Sequence[str]) -> int | None:
    """Index of the region that an edited mask is, or is a part of; of equal ones, that of the same class."""
    if item.segmentation is None or not regions:
        return None
    masks = [region["segmentation"] for region in regions]
    if any(list(mask["size"]) != list(item.segmentation["size"]) for mask in masks):
        return None
    inside = coco.iou([item.segmentation], masks, [1] * len(masks))[0]  # share of the edited mask that is in the region
    overlap = coco.iou([item.segmentation], masks, [0] * len(masks))[0]
    is_same = np.array([names[region["label"]] == item.label for region in regions])
    measure = inside if item.is_part else overlap
    best = max(range(len(masks)), key=lambda place: (round(float(measure[place]), 3), is_same[place], overlap[place]))
    is_found = overlap[best] >= SAME_REGION or (item.is_part and inside[best] >= PART_OF_REGION)
    return best if is_found else None

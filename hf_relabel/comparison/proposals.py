"""Compare generators of proposals on the same images with true objects.

An object is found if a proposal has at least an IoU with it. Recall is given for all objects and by their size. The
label ceiling is the share of the labels of all images that the best possible labeler could find: those where a proposal
has an IoU of at least 0.5 with one object of the class or with the union of its objects. The average best overlap is
the mean over the objects of their highest IoU with a proposal.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from hf_relabel.comparison.generators import Generated, Generator
from hf_relabel.comparison.objects import Objects, TrueObject
from hf_relabel.errors import ImageReadError, SourceError
from hf_relabel.formats.given_masks import MaskError
from hf_relabel.pictures.overlays import contact_sheet, draw_masks
from hf_relabel.run.store import atomic_open
from hf_relabel.sources.source import Source
from hf_relabel.vision.masks import RLE

SIZES = {"small": (0.0, 0.01), "medium": (0.01, 0.05), "large": (0.05, math.inf)}
"""Smallest and largest area of each size of object, as a share of the image."""

IOUS = (0.5, 0.75)

SHEET_IMAGES, CELL = 8, 240
"""Images on the contact sheet, at equal distances, and the side of a picture on it in pixels."""


@dataclass
class Tally:
    """What one generator did on all images.

    Attributes:
        best: Highest IoU of each object with a proposal.
        share: Area of each object as a share of its image.
        labels: Whether each label of each image has a proposal.
        masks: Number of proposals of each image.
        seconds: Seconds for each image; empty for masks from a file.
    """

    best: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    labels: list[bool] = field(default_factory=list)
    masks: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, found: Generated, objects: Sequence[TrueObject], pixels: int) -> None:
        """Compare the proposals of an image with its objects."""
        best = _overlaps(found.masks, objects).max(axis=0, initial=0.0)
        self.best += best.tolist()
        self.share += [one.area / pixels for one in objects]
        for label in sorted({one.label for one in objects}):
            mine = [place for place, one in enumerate(objects) if one.label == label]
            unions = _union([objects[place] for place in mine])
            of_union = _overlaps(found.masks, unions).max(initial=0.0)
            self.labels.append(max(of_union, best[mine].max()) >= IOUS[0])
        self.masks.append(len(found.masks))
        if found.seconds is not None:
            self.seconds.append(found.seconds)

    def row(self) -> dict[str, float]:
        """The measures by name; NaN where there is nothing to measure."""
        best, share = np.array(self.best), np.array(self.share)
        row: dict[str, float] = {"masks_per_image": float(np.mean(self.masks))}
        for iou in IOUS:
            row[f"recall_{iou:g}"] = _mean(best >= iou)
            for name, (low, high) in SIZES.items():
                row[f"recall_{iou:g}_{name}"] = _mean(best[(share >= low) & (share < high)] >= iou)
        row["label_ceiling"] = _mean(np.array(self.labels))
        row["average_best_overlap"] = _mean(best)
        row["seconds_per_image"] = _mean(np.array(self.seconds))
        return row


@dataclass(frozen=True)
class Comparison:
    """Generators compared.

    Args:
        images: Number of images.
        objects: Number of their objects by size.
        by_boxes: Whether boxes were compared because some object has no mask.
        rows: Measures of each generator by name (`Tally.row`).
        unread: Number of images that were left out, by reason.
    """

    images: int
    objects: dict[str, int]
    by_boxes: bool
    rows: dict[str, dict[str, float]]
    unread: Counter[str]


def compare_proposals(
    source: Source,
    objects: Objects,
    generators: Mapping[str, Generator],
    sheet: Path | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Comparison:
    """Run all generators on the images whose objects are known.

    Args:
        source: The images.
        objects: The true objects.
        generators: The generators by name.
        sheet: PNG file to draw some of the images with their masks to; None draws nothing.
        tick: Called after each image.

    Raises:
        SourceError: No image has known objects, or none could be read.
        FormatError: A true object is damaged or has another size than its image.
    """
    places = [place for place, image_id in enumerate(source.image_ids) if objects.has(image_id)]
    if not places:
        raise SourceError(
            f"{objects.origin}: has no objects of these images, whose first is {source.image_ids[0]!r}; give the file "
            "that belongs to them"
        )
    drawn = {places[number * len(places) // SHEET_IMAGES] for number in range(SHEET_IMAGES)} if sheet else set()
    tallies = {name: Tally() for name in generators}
    pictures: list[tuple[Image.Image, str]] = []
    sizes: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    by_boxes = False
    for place in places:
        image_id = source.image_ids[place]
        try:
            loaded = source.load(place)
            found = {name: generator(image_id, loaded) for name, generator in generators.items()}
        except (ImageReadError, MaskError) as error:
            unread[str(error)] += 1
            continue
        true = objects.of(image_id, loaded.width, loaded.height)
        by_boxes = by_boxes or any(one.mask is None for one in true)
        pixels = loaded.width * loaded.height
        for name, (low, high) in SIZES.items():
            sizes[name] += sum(low <= one.area / pixels < high for one in true)
        for name, generated in found.items():
            tallies[name].add(generated, true, pixels)
        if place in drawn:
            pictures += _pictures(loaded.image, true, found)
        tick()
    images = len(places) - unread.total()
    if not images:
        raise SourceError(f"none of the {len(places)} images could be compared: {next(iter(unread))}")
    if sheet and pictures:
        columns = 1 + len(generators)
        drawing = contact_sheet([one for one, _ in pictures], [[text] for _, text in pictures], columns, CELL)
        with atomic_open(sheet) as file:
            drawing.save(file, "PNG")
    rows = {name: tally.row() for name, tally in tallies.items()}
    return Comparison(images, dict(sizes), by_boxes, rows, unread)


def _overlaps(found: list[RLE], objects: Sequence[TrueObject]) -> np.ndarray:
    """IoU of every proposal with every object, float [proposals, objects]; of boxes if an object has no mask."""
    if not found or not objects:
        return np.zeros((len(found), len(objects)))
    if all(one.mask is not None for one in objects):
        return np.asarray(coco.iou(found, [one.mask for one in objects], [0] * len(objects)))
    boxes = np.asarray(coco.toBbox(found), float).reshape(-1, 4)
    return np.asarray(coco.iou(boxes, np.array([one.box for one in objects], float), [0] * len(objects)))


def _union(objects: list[TrueObject]) -> list[TrueObject]:
    """The union of an image's objects of one class, if their masks are known."""
    known = [one.mask for one in objects if one.mask is not None]
    if len(known) < len(objects):
        return []
    merged: Any = coco.merge(known)
    return [TrueObject(objects[0].label, list(coco.toBbox(merged)), merged, float(coco.area(merged)))]


def _pictures(
    image: Image.Image, true: list[TrueObject], found: Mapping[str, Generated]
) -> list[tuple[Image.Image, str]]:
    """The true objects and each generator's masks over an image, with a caption."""
    masks = [one.mask for one in true if one.mask is not None]
    pictures = [(draw_masks(image, masks), f"true: {len(true)}")]
    return pictures + [(draw_masks(image, one.masks), f"{name}: {len(one.masks)}") for name, one in found.items()]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan

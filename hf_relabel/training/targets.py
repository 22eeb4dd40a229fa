"""Training targets: the label set of an image as a vector, for the whole image or for a crop."""

from typing import Literal, Protocol

import numpy as np

from hf_relabel.errors import ReleaseError
from hf_relabel.release.label_table import LabelTable
from hf_relabel.schema import NO_LABEL
from hf_relabel.vision import masks

Box = tuple[float, float, float, float]
"""Left, top, right, bottom of a crop, as fractions of the image's width and height."""

WHOLE_IMAGE: Box = (0.0, 0.0, 1.0, 1.0)


class Targets(Protocol):
    """Returns the target vector of an image for a crop, float32 [C] in [0, 1]."""

    def __call__(self, row: int, box: Box) -> np.ndarray: ...


class SetTargets:
    """Multi-hot targets, bool [N, C], which do not depend on the crop."""

    def __init__(self, sets: np.ndarray):
        self._sets = sets

    def __call__(self, row: int, box: Box) -> np.ndarray:
        return self._sets[row].astype(np.float32)


class ReleaseTargets:
    """Targets from the labels in a release, which do not depend on the crop.

    Args:
        table: The release; row i of the targets is row i of the table.
        kind: `single`: 1 for the original label; `soft`: the scores; `threshold`: 1 for each score of at least
            `threshold`.
        threshold: Minimum score of a present class, for `kind="threshold"`.
        include_original: Always set the target of the original label to 1.
    """

    def __init__(
        self,
        table: LabelTable,
        kind: Literal["single", "soft", "threshold"],
        threshold: float = 0.5,
        include_original: bool = False,
    ):
        if kind == "single" and (table.original == NO_LABEL).any():
            raise ReleaseError(
                f"{table.origin}: has images without an original label, which the target `single` needs; use soft or "
                "threshold"
            )
        self._table = table
        self._kind = kind
        self._threshold = np.float32(threshold)
        self._include_original = include_original or kind == "single"
        self._scores = None if kind == "single" else table.scores

    def __call__(self, row: int, box: Box) -> np.ndarray:
        table, target = self._table, np.zeros(len(self._table.class_names), np.float32)
        if self._scores is not None:
            entries = slice(table.offsets[row], table.offsets[row + 1])
            scores = self._scores[entries]
            target[table.classes[entries]] = scores if self._kind == "soft" else scores >= self._threshold
        if self._include_original and table.original[row] != NO_LABEL:
            target[table.original[row]] = 1
        return target


class KeptTargets:
    """The targets of some of the images: row i is row `kept[i]` of the others."""

    def __init__(self, targets: Targets, kept: np.ndarray):
        self._targets = targets
        self._kept = kept

    def __call__(self, row: int, box: Box) -> np.ndarray:
        return self._targets(int(self._kept[row]), box)


class CropAwareTargets:
    """Targets that scale a class by the share of its region inside the crop.

    If a class has several regions, the factor is max(score * share inside) / max(score) over the regions. So the whole
    image has the plain target, and a class without a region, such as the original label, keeps its target in every
    crop.

    Args:
        table: The release, read with regions.
        plain: Targets of the whole images.

    Raises:
        ReleaseError: The release was read without regions.
    """

    def __init__(self, table: LabelTable, plain: Targets):
        if table.regions is None:
            raise ReleaseError(f"{table.origin}: has no regions, which crop-aware targets need; build it with masks")
        self._regions = table.regions
        self._plain = plain

    def __call__(self, row: int, box: Box) -> np.ndarray:
        target = self._plain(row, box)
        best: dict[int, float] = {}
        seen: dict[int, float] = {}
        crops: dict[tuple[int, int], masks.RLE] = {}  # the regions of an image have one size
        for region in self._regions[row].as_py():
            rle = region["segmentation"]
            size = (rle["size"][0], rle["size"][1])
            if size not in crops:
                crops[size] = crop_mask(size, box)
            pixels = masks.area_of(rle)
            inside = masks.overlap(rle, crops[size]) / pixels if pixels else 0.0
            for label, score in zip(region["top_labels"], region["top_scores"], strict=True):
                best[label] = max(best.get(label, 0.0), score)
                seen[label] = max(seen.get(label, 0.0), score * inside)
        for label, score in best.items():
            if score > 0:
                target[label] *= seen[label] / score
        return target


def crop_mask(size: tuple[int, int], box: Box) -> masks.RLE:
    """The mask of the pixels inside a crop, for an image of this height and width."""
    height, width = size
    left, top, right, bottom = box
    rows, columns = range(round(top * height), round(bottom * height)), range(round(left * width), round(right * width))
    return masks.rectangle(size, rows, columns)

"""Checked conversion of COCO segmentations (compressed or plain run lengths, or polygons) to `masks.RLE`.

pycocotools accesses memory out of bounds if run lengths do not fit the size of the mask, so data from a file is checked
first.
"""

import math
from typing import Any

import numpy as np
from pycocotools import mask as coco

from hf_relabel.vision.masks import RLE

_MAX_CHARACTERS = 6  # of 5 bits per number: enough for any image, and what the COCO API can read safely


def read_segmentation(segmentation: Any, height: int, width: int) -> RLE:
    """Convert a segmentation to compressed RLE with the image's size.

    Args:
        segmentation: {"size", "counts"} with counts as text or as a list, or a list of polygons [x, y, x, y, ...] in
            pixels.
        height, width: Size of the image in pixels.

    Raises:
        ValueError: It has another format or size, or is damaged; the message gives the reason in one line.
    """
    if isinstance(segmentation, list):
        return _of_polygons(segmentation, height, width)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError("is neither run lengths {size, counts} nor a list of polygons")
    size, counts = segmentation["size"], segmentation["counts"]
    if size != [height, width]:
        raise ValueError(f"has size {size}, but the image has [{height}, {width}] (height, width)")
    if isinstance(counts, list):
        if not all(isinstance(run, int) and run >= 0 for run in counts):
            raise ValueError("has runs that are not non-negative integers")
        runs = np.array(counts, object)
    elif isinstance(counts, str):
        runs = run_lengths(counts)
    else:
        raise ValueError(f"has counts of type {type(counts).__name__} instead of text or a list")
    if sum(runs.tolist()) != height * width:
        raise ValueError(f"has runs for {sum(runs.tolist())} pixels, but the image has {height * width}")
    if isinstance(counts, list):
        return _as_text(coco.frPyObjects({"size": size, "counts": counts}, height, width))
    return {"size": [height, width], "counts": counts}


def is_degenerate(polygon: Any) -> bool:
    """Whether a polygon has fewer than three points, so that it covers nothing."""
    return isinstance(polygon, list) and len(polygon) < 6 and len(polygon) % 2 == 0


def run_lengths(counts: str) -> np.ndarray:
    """Decode COCO's compressed counts to run lengths, int64 [N].

    Each number is stored in characters with 5 bits each, starting at '0', lowest bits first; a sixth bit marks that
    more characters follow. From the fourth number on, the difference to the number two before is stored (`rleToString`
    in the COCO API).

    Raises:
        ValueError: The text does not have this format, or a run is negative.
    """
    codes = np.frombuffer(counts.encode("utf-8"), np.uint8).astype(np.int64) - ord("0")
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("has counts that are not COCO's compressed run lengths")
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARACTERS:
        raise ValueError("has counts that are not COCO's compressed run lengths")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 31) << 5 * places, starts)
    numbers -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)  # the highest bit is the sign
    runs = numbers.copy()
    for first in (1, 2):
        runs[first::2] = np.cumsum(numbers[first::2])
    if runs.min() < 0:
        raise ValueError("has a run of negative length")
    return runs


def area_of(rle: RLE) -> int:
    """Number of pixels of a mask."""
    return int(run_lengths(rle["counts"])[1::2].sum())


def _of_polygons(polygons: list, height: int, width: int) -> RLE:
    if not polygons:
        raise ValueError("is empty")
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("has a polygon that is not a list of at least three points x, y")
        if not all(isinstance(side, int | float) and abs(side) < math.inf for side in polygon):
            raise ValueError("has a polygon with coordinates that are not finite numbers")
        # The time to rasterize an edge grows with its length, so coordinates far outside the image are refused.
        if not (_within(polygon[0::2], width) and _within(polygon[1::2], height)):
            raise ValueError(f"has a polygon outside the image of {width} x {height} pixels")
    return _as_text(coco.merge(coco.frPyObjects(polygons, height, width)))


def _within(coordinates: list[float], side: int) -> bool:
    return -side <= min(coordinates) and max(coordinates) <= 2 * side


def _as_text(rle: RLE) -> RLE:
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}

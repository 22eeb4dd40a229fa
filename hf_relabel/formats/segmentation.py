"""Segmentations of COCO files, checked: compressed or plain run lengths or polygons, all as our `masks.RLE`.

pycocotools reads run lengths that do not fit the mask's size past the end of its memory, so what comes from a file is
checked before it is handed on.
"""

import math
from typing import Any

import numpy as np
from pycocotools import mask as coco

from hf_relabel.vision.masks import RLE

_MOST_CHARACTERS = 6  # of 5 bits each: more than the runs of any image need, and all that the COCO API reads safely


def read_segmentation(segmentation: Any, height: int, width: int) -> RLE:
    """A segmentation as compressed RLE of the image's size.

    Args:
        segmentation: COCO's: {"size", "counts"} with counts as text or as a list, or a list of polygons
            [x, y, x, y, ...] in pixels.
        height, width: The image's size.

    Raises:
        ValueError: It is none of these, of another size, or damaged; the message is the reason in one line.
    """
    if isinstance(segmentation, list):
        return _of_polygons(segmentation, height, width)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError("is neither run lengths {size, counts} nor a list of polygons")
    size, counts = segmentation["size"], segmentation["counts"]
    if size != [height, width]:
        raise ValueError(f"is of size {size}, the image of [{height}, {width}] (height, width)")
    if isinstance(counts, list):
        if not all(isinstance(run, int) and run >= 0 for run in counts):
            raise ValueError("has runs that are not whole numbers from 0")
        runs = np.array(counts, object)
    elif isinstance(counts, str):
        runs = run_lengths(counts)
    else:
        raise ValueError(f"has counts of type {type(counts).__name__}, not text or a list")
    if sum(runs.tolist()) != height * width:
        raise ValueError(f"has runs of {sum(runs.tolist())} pixels, the image has {height * width}")
    if isinstance(counts, list):
        return _as_text(coco.frPyObjects({"size": size, "counts": counts}, height, width))
    return {"size": [height, width], "counts": counts}


def run_lengths(counts: str) -> np.ndarray:
    """The run lengths, int64 [N], of COCO's compressed counts.

    Each is written in characters of 5 bits from '0' on, the lowest first, with a sixth bit where more follow; from the
    fourth number on it is the difference to the one two before (`rleToString` of the COCO API).

    Raises:
        ValueError: The text is not of that form, or a run is negative.
    """
    codes = np.frombuffer(counts.encode("utf-8"), np.uint8).astype(np.int64) - ord("0")
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("has counts that are not COCO's compressed run lengths")
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MOST_CHARACTERS:
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
    """Pixels of a mask, from its compressed run lengths."""
    return int(run_lengths(rle["counts"])[1::2].sum())


def _of_polygons(polygons: list, height: int, width: int) -> RLE:
    if not polygons:
        raise ValueError("is empty")
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("has a polygon that is not a list of three or more points x, y")
        if not all(isinstance(side, int | float) and math.isfinite(side) for side in polygon):
            raise ValueError("has a polygon with coordinates that are not finite numbers")
        # The work on an edge grows with its length; annotators leave the image by a pixel or two at most.
        if not (_within(polygon[0::2], width) and _within(polygon[1::2], height)):
            raise ValueError(f"has a polygon that lies outside the image of {width} x {height} pixels")
    return _as_text(coco.merge(coco.frPyObjects(polygons, height, width)))


def _within(coordinates: list[float], side: int) -> bool:
    return -side <= min(coordinates) and max(coordinates) <= 2 * side


def _as_text(rle: RLE) -> RLE:
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}

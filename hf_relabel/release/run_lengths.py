"""Check many COCO run-length encodings at once: pycocotools reads out of bounds if the runs do not fit the mask."""

import numpy as np
import pyarrow as pa

MAX_CHARACTERS = 6
"""Characters of 5 bits per number: enough for any image, and what the COCO API can read safely."""

_CHUNK = 1 << 18  # characters at a time; each takes some 100 bytes of intermediate arrays


def areas_of(counts: pa.StringArray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas of N masks from COCO's compressed counts (`rleFrString` in the COCO API).

    Args:
        counts: N texts.
        pixels: Pixels of each mask, int64 [N], which its runs must add up to.

    Returns:
        Areas in pixels, int64 [N], and which of the texts are valid, bool [N].
    """
    count = len(counts)
    areas, is_valid = np.zeros(count, np.int64), np.zeros(count, bool)
    offsets = np.frombuffer(counts.buffers()[1], np.int32, count + 1, 4 * counts.offset) if count else np.zeros(1)
    data = counts.buffers()[2] if count else None
    if data is None:
        return areas, is_valid
    codes = np.frombuffer(data, np.uint8)
    first = 0
    while first < count:
        last = int(np.searchsorted(offsets, offsets[first] + _CHUNK, side="right")) - 1
        last = min(max(last, first + 1), count)
        chunk = slice(first, last)
        text = codes[offsets[first] : offsets[last]].astype(np.int64) - ord("0")
        areas[chunk], is_valid[chunk] = _areas(text, np.diff(offsets[first : last + 1]), pixels[chunk])
        first = last
    return areas, is_valid


def _areas(codes: np.ndarray, lengths: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for texts one after another: their characters less '0', int64 [M], and their lengths [N]."""
    count = len(lengths)
    is_valid = lengths > 0
    if not len(codes):
        return np.zeros(count, np.int64), is_valid
    of_text = np.repeat(np.arange(count), lengths)
    is_last = np.zeros(len(codes), bool)
    is_last[np.cumsum(lengths)[is_valid] - 1] = True
    is_valid[of_text[(codes < 0) | (codes > 63) | (is_last & (codes & 32 != 0))]] = False

    ends = np.flatnonzero((codes & 32 == 0) | is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    of_number = of_text[ends]
    is_valid[of_number[sizes > MAX_CHARACTERS]] = False
    sizes = np.minimum(sizes, MAX_CHARACTERS)
    places = np.minimum(np.arange(len(codes)) - np.repeat(starts, ends - starts + 1), MAX_CHARACTERS)
    numbers = np.add.reduceat((codes & 31) << 5 * places, starts)
    numbers -= np.where(codes[ends] & 16, 1 << 5 * sizes, 0)  # the highest bit is the sign

    # From the fourth number on, the difference to the number two before is stored: sums over every other number.
    firsts = np.searchsorted(of_number, np.arange(count))
    index = np.arange(len(numbers)) - firsts[of_number]
    group = 3 * of_number + np.where(index == 0, 0, 1 + (index + 1) % 2)
    order = np.argsort(group, kind="stable")
    sums = np.cumsum(numbers[order])
    begins = np.flatnonzero(np.diff(group[order], prepend=-1))
    before = np.where(begins > 0, sums[begins - 1], 0)
    runs = np.empty_like(numbers)
    runs[order] = sums - np.repeat(before, np.diff(begins, append=len(order)))
    is_valid[of_number[runs < 0]] = False
    totals = np.bincount(of_number, runs.clip(0), count)
    areas = np.bincount(of_number, np.where(index % 2 == 1, runs, 0).clip(0), count)
    return areas.astype(np.int64), is_valid & (totals == pixels)

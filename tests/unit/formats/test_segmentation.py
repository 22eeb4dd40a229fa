"""Segmentations from files: every form of COCO's as the same RLE, and damage refused before pycocotools sees it."""

import numpy as np
import pytest
from pycocotools import mask as coco

from hf_relabel.formats.segmentation import area_of, read_segmentation, run_lengths
from hf_relabel.vision import masks


def test_run_lengths_by_hand():
    # 4 rows, 5 columns; pixels counted down the columns: 3 clear, 2 set, 4 clear, 5 set, 6 clear.
    mask = np.zeros(20, bool)
    mask[3:5] = mask[9:14] = True
    rle = masks.encode(mask.reshape((4, 5), order="F"))
    assert run_lengths(rle["counts"]).tolist() == [3, 2, 4, 5, 6]
    assert area_of(rle) == 7


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_random_masks_have_the_runs_of_their_pixels(density):
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (1, 40), (37, 1), (60, 53), (300, 500)]:
        mask = rng.random((height, width)) < density
        rle = masks.encode(mask)
        assert read_segmentation(rle, height, width) == rle
        runs = run_lengths(rle["counts"])
        np.testing.assert_array_equal(np.repeat(np.arange(len(runs)) % 2 == 1, runs), mask.ravel(order="F"))
        assert area_of(rle) == mask.sum()
        assert read_segmentation({"size": [height, width], "counts": runs.tolist()}, height, width) == rle


def test_polygons():
    square = [1, 1, 5, 1, 5, 4, 1, 4]
    rle = read_segmentation([square], 8, 10)
    assert rle["size"] == [8, 10]
    expected = np.zeros((8, 10), bool)
    expected[1:4, 1:5] = True
    np.testing.assert_array_equal(masks.decode(rle), expected)
    two = read_segmentation([square, [6.5, 5.0, 9.5, 5.0, 9.5, 7.5]], 8, 10)
    assert area_of(two) == int(coco.area(two)) > area_of(rle)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"size": [4, 5], "counts": ""}, "not COCO's compressed run lengths"),
        ({"size": [4, 5], "counts": "0"}, "has runs for 0 pixels, but the image has 20"),
        ({"size": [4, 5], "counts": "11111"}, "has runs for 7 pixels"),
        ({"size": [4, 5], "counts": "PPPP"}, "not COCO's compressed run lengths"),  # the last number does not end
        ({"size": [4, 5], "counts": "ooooooooooo0"}, "not COCO's compressed run lengths"),  # more than 64 bits
        ({"size": [4, 5], "counts": "é"}, "not COCO's compressed run lengths"),
        ({"size": [4, 5], "counts": "2O1a0"}, "negative"),
        ({"size": [5, 4], "counts": "d0"}, r"has size \[5, 4\], but the image has \[4, 5\]"),
        ({"size": [4, 5], "counts": [10, 11]}, "has runs for 21 pixels"),
        ({"size": [4, 5], "counts": [21, -1]}, "not non-negative integers"),
        ({"size": [4, 5], "counts": [20.0]}, "not non-negative integers"),
        ({"size": [4, 5], "counts": 20}, "counts of type int"),
        ({"counts": "d0"}, "neither run lengths"),
        ("d0", "neither run lengths"),
        ([], "is empty"),
        ([[1, 1, 2, 2]], "at least three points"),
        ([[1, 1, 2, 2, 3]], "at least three points"),
        ([[1, 1, 2, 2, 3, float("inf")]], "not finite"),
        ([[1, 1, 2, 2, 3, 1e9]], "outside the image of 5 x 4 pixels"),
    ],
)
def test_what_is_refused(segmentation, reason):
    with pytest.raises(ValueError, match=reason):
        read_segmentation(segmentation, 4, 5)

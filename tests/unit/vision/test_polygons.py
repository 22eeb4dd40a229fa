"""Polygons have a mask's pixels exactly, as pycocotools fills them."""

import numpy as np
import pytest
from pycocotools import mask as coco

from hf_relabel.vision.polygons import joined, polygons


def filled(outlines: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Fill polygons with pycocotools, bool [H, W]."""
    if not outlines:
        return np.zeros(shape, bool)
    return coco.decode(coco.merge(coco.frPyObjects([p.ravel().tolist() for p in outlines], *shape))).astype(bool)


def test_a_rectangle_is_its_four_corners():
    mask = np.zeros((6, 8), bool)
    mask[2:5, 3:7] = True
    assert [p.tolist() for p in polygons(mask)] == [[[3, 2], [7, 2], [7, 5], [3, 5]]]


def test_a_hole_is_cut_out_and_pixels_that_touch_at_a_corner_stay_apart():
    ring = np.ones((5, 5), bool)
    ring[1:4, 1:4] = False
    ring[2, 2] = True  # a part inside the hole
    assert len(polygons(ring)) == 2
    assert np.array_equal(filled(polygons(ring), ring.shape), ring)
    for touching in (np.eye(3, dtype=bool), np.eye(3, dtype=bool)[::-1]):
        assert len(polygons(touching)) == 3
        assert np.array_equal(filled(polygons(touching), touching.shape), touching)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.8, 1.0])
def test_any_mask_is_the_same_after_a_round_trip(share):
    generator = np.random.default_rng(0)
    for shape in [(1, 1), (1, 9), (9, 1), (17, 13), (40, 60)]:
        mask = generator.random(shape) < share
        outlines = polygons(mask)
        assert np.array_equal(filled(outlines, shape), mask)
        if outlines:
            one = outlines[0]
            for outline in outlines[1:]:
                one = joined(one, outline)
            assert np.array_equal(filled([one], shape), mask), "joined by edges there and back"


def test_the_area_between_the_corners_is_the_masks():
    """Readers that compute the area from the corners (shoelace formula) subtract holes."""
    mask = np.ones((9, 12), bool)
    mask[2:5, 3:7] = mask[6:8, 8:10] = False
    [outline] = polygons(mask)
    x, y = outline.T
    assert (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2 == mask.sum()


def test_an_empty_mask_has_no_polygon():
    assert polygons(np.zeros((3, 4), bool)) == []

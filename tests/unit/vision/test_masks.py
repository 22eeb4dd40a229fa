import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from torch.nn import functional

from hf_relabel.vision import masks


def grid(*rows: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in rows])


RING = grid(".###.", ".#.#.", ".###.", ".....")

# Counts are COCO's compressed runs, written by hand: 5 bits per character, offset 48, column-major.
TABLE = [
    (np.zeros((2, 3), bool), "6", [0, 0, 0, 0]),
    (np.ones((2, 3), bool), "06", [0, 0, 3, 2]),
    (grid("#..", "..."), "015", [0, 0, 1, 1]),
    (grid("..#", "..."), "411", [2, 0, 1, 1]),
]


@pytest.mark.parametrize(("mask", "counts", "box"), TABLE)
def test_encode_matches_counts_written_by_hand(mask, counts, box):
    rle = masks.encode(mask)
    assert rle == {"size": list(mask.shape), "counts": counts}
    assert masks.bbox(mask) == box
    assert np.array_equal(masks.decode(rle), mask)


def test_encode_agrees_with_pycocotools():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random(rng.integers(1, 40, 2)) < rng.random()
        rle = masks.encode(mask)
        assert int(coco.area(rle)) == masks.area(mask)
        assert coco.toBbox(rle).tolist() == masks.bbox(mask)
        assert np.array_equal(masks.decode(rle), mask)


def test_fill_holes_fills_rings_but_not_bays():
    assert masks.area(masks.fill_holes(RING)) == 9
    bay = grid("###", "#.#", "#.#")
    assert np.array_equal(masks.fill_holes(bay), bay)
    diagonal_gap = grid("##.", "#.#", "###")  # a hole that touches the outside only at a corner
    assert masks.area(masks.fill_holes(diagonal_gap)) == 8


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (4, 4), (5, 3), (333, 500)])
def test_to_image_resizes_the_grid(size):
    half = np.zeros((4, 4), bool)
    half[:, :2] = True
    picture = masks.to_image(half, size)
    assert picture.shape == (size[1], size[0])
    edge = picture.sum(axis=1)
    assert abs(edge.mean() - size[0] / 2) <= 1
    assert masks.to_image(np.ones((4, 4), bool), size).all()
    assert not masks.to_image(np.zeros((4, 4), bool), size).any()


@pytest.mark.parametrize(
    ("size", "grid"), [((80, 96), (8, 8)), ((375, 500), (32, 32)), ((7, 9), (16, 16)), ((33, 61), (9, 4))]
)
def test_to_grid_equals_bilinear_interpolation_above_zero(size, grid):
    rng = np.random.default_rng(0)
    for density in (0.002, 0.1, 0.5):
        mask = rng.random(size) < density
        mask[size[0] // 2, size[1] // 2] = True
        expected = functional.interpolate(torch.from_numpy(mask)[None, None].float(), grid, mode="bilinear")[0, 0] > 0
        if expected.any():
            np.testing.assert_array_equal(masks.to_grid(mask, grid), expected)
    every = np.ones(size, bool)
    assert masks.to_grid(every, grid).all()


def test_to_grid_of_a_tiny_mask_covers_its_patch():
    mask = np.zeros((80, 80), bool)
    mask[21:23, 9] = True
    assert np.argwhere(masks.to_grid(mask, (8, 8))).tolist() == [[2, 0]]
    assert not masks.to_grid(np.zeros((80, 80), bool), (8, 8)).any()


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (32, 32), (1, 1)])
def test_packed_grid_masks_unpack_to_the_same(grid):
    drawn = np.random.default_rng(0).random((5, *grid)) < 0.4
    packed = [masks.pack(mask) for mask in drawn]
    assert {len(item) for item in packed} == {-(-grid[0] * grid[1] // 8)}
    assert np.array_equal(masks.unpack(packed, grid), drawn)
    assert masks.unpack([], grid).shape == (0, *grid)


@pytest.mark.parametrize("size", [(3, 40), (5, 5), (7, 12), (8, 8), (9, 30), (16, 16), (40, 3), (640, 480)])
def test_a_mask_vanishes_where_its_enlarged_form_is_empty(size):
    """Each single patch of an 8 x 8 grid, at sizes (width, height) below and above that of the grid."""
    for patch in range(64):
        mask = np.zeros((8, 8), bool)
        mask.flat[patch] = True
        assert masks.vanishes(mask, size) == (not masks.to_image(mask, size).any())
    assert masks.vanishes(np.zeros((8, 8), bool), size)

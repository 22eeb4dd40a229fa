import numpy as np
import pytest
from pycocotools import mask as coco

from hf_relabel import masks


def grid(*rows: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in rows])


RING = grid(".###.", ".#.#.", ".###.", ".....")

# Counts are COCO's compressed runs, written by hand from its rule: 5 bits a character, offset 48, column-major.
TABLE = [
    (np.zeros((2, 3), bool), "6", [0, 0, 0, 0]),
    (np.ones((2, 3), bool), "06", [0, 0, 3, 2]),
    (grid("#..", "..."), "015", [0, 0, 1, 1]),
    (grid("..#", "..."), "411", [2, 0, 1, 1]),
]


@pytest.mark.parametrize(("mask", "counts", "box"), TABLE)
def test_encode_table(mask, counts, box):
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


def test_fill_holes_closes_rings_but_not_bays():
    assert masks.area(masks.fill_holes(RING)) == 9
    bay = grid("###", "#.#", "#.#")
    assert np.array_equal(masks.fill_holes(bay), bay)
    diagonal_gap = grid("##.", "#.#", "###")  # the hole meets the outside only at a corner: still a hole
    assert masks.area(masks.fill_holes(diagonal_gap)) == 8


def test_iou():
    assert masks.iou(RING, RING) == 1
    assert masks.iou(grid("##.."), grid(".##.")) == pytest.approx(1 / 3)
    assert masks.iou(grid("...."), grid("....")) == 0


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (4, 4), (5, 3), (333, 500)])
def test_to_image_stretches_the_grid(size):
    half = np.zeros((4, 4), bool)
    half[:, :2] = True
    picture = masks.to_image(half, size)
    assert picture.shape == (size[1], size[0])
    edge = picture.sum(axis=1)
    assert abs(edge.mean() - size[0] / 2) <= 1
    assert masks.to_image(np.ones((4, 4), bool), size).all()
    assert not masks.to_image(np.zeros((4, 4), bool), size).any()

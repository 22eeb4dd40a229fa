import numpy as np
import pytest

from hf_relabel.vision.windows import window_masks


def test_four_windows_per_side_have_seven_sixteenths_of_the_side():
    masks = window_masks(4, (32, 32))
    assert masks.shape == (16, 32, 32)
    assert set(masks.sum(axis=(1, 2)).tolist()) == {14 * 14}
    tops = [int(np.flatnonzero(mask.any(axis=1))[0]) for mask in masks[::4]]
    assert tops == [0, 6, 12, 18]


@pytest.mark.parametrize("grid", [(20, 20), (16, 16), (9, 13), (3, 3)])
@pytest.mark.parametrize("per_side", [1, 2, 3, 4, 6])
def test_windows_cover_the_whole_grid(per_side, grid):
    masks = window_masks(per_side, grid)
    assert masks.shape == (per_side**2, *grid)
    assert masks.any(axis=0).all()


def test_one_window_is_the_whole_image():
    assert window_masks(1, (5, 7)).all()


def test_no_windows():
    assert window_masks(0, (5, 7)).shape == (0, 5, 7)

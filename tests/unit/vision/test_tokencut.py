import numpy as np
import pytest
import torch

from hf_relabel.vision.tokencut import tokencut

GRID = (8, 10)


def features_of(mask: np.ndarray, seed: int = 0) -> torch.Tensor:
    """Two kinds of patches with little noise."""
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(2, 16))
    return torch.from_numpy(kinds[mask.ravel().astype(int)] + 0.1 * rng.normal(size=(mask.size, 16)))


def test_the_object_is_found():
    mask = np.zeros(GRID, bool)
    mask[2:5, 3:6] = True
    found = tokencut(features_of(mask), GRID, 0.3)
    assert found.shape == (1, *GRID)
    assert np.array_equal(found[0], mask)


def test_it_is_one_object_even_if_there_are_two():
    mask = np.zeros(GRID, bool)
    mask[1:4, 1:4] = True
    mask[5:7, 6:9] = True
    found = tokencut(features_of(mask), GRID, 0.3)
    assert len(found) == 1
    assert not found[0][~mask].any()
    assert found[0].sum() in (9, 6)


@pytest.mark.parametrize("features", [torch.ones(80, 4), torch.full((80, 4), torch.nan)])
def test_patches_without_a_difference_or_without_a_value_give_nothing(features: torch.Tensor):
    assert len(tokencut(features, GRID, 0.3)) == 0

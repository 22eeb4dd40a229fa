"""Mean pooling, and patch dropout."""

import pytest
import torch

from hf_relabel.vision.pooling import pool, pool_views

PATCHES, DIM = 40, 5


@pytest.fixture
def region() -> torch.Tensor:
    return torch.randn(PATCHES, DIM, generator=torch.Generator().manual_seed(0))


def mask_of(*patches: int) -> torch.Tensor:
    mask = torch.zeros(PATCHES, dtype=torch.bool)
    mask[list(patches)] = True
    return mask


def views_of(region, masks, views=3, drop=0.2, seed=0):
    return pool_views(region, masks, views, drop, torch.Generator().manual_seed(seed))


def test_pool_is_the_mean_under_each_mask(region):
    masks = torch.stack([mask_of(3), mask_of(0, 7, 39), mask_of(*range(PATCHES))])
    expected = torch.stack([region[3], (region[0] + region[7] + region[39]) / 3, region.mean(dim=0)])
    torch.testing.assert_close(pool(region, masks), expected)


def test_empty_mask_selects_all_patches(region):
    masks = torch.stack([mask_of(), mask_of(2)])
    torch.testing.assert_close(pool(region, masks), torch.stack([region.mean(dim=0), region[2]]))


def test_no_masks_give_no_features(region):
    none = torch.zeros(0, PATCHES, dtype=torch.bool)
    assert pool(region, none).shape == (0, DIM)
    assert views_of(region, none).shape == (0, 3, DIM)


def test_no_views_give_an_empty_axis(region):
    assert views_of(region, mask_of(1, 2)[None], views=0).shape == (1, 0, DIM)


@pytest.mark.parametrize(
    ("size", "drop", "dropped"), [(40, 0.2, 8), (10, 0.25, 2), (3, 0.2, 1), (1, 0.9, 0), (4, 0.99, 3)]
)
def test_a_view_drops_the_given_share_but_never_all_patches(size, drop, dropped):
    # With one-hot features, the nonzero entries of a view are the patches that it averages.
    views = views_of(torch.eye(PATCHES), mask_of(*range(size))[None], views=50, drop=drop)[0]
    assert ((views > 0).sum(dim=1) == size - dropped).all()
    torch.testing.assert_close(views.sum(dim=1), torch.ones(50))
    assert (views[:, size:] == 0).all()


def test_all_patches_are_dropped_equally_often():
    views = views_of(torch.eye(PATCHES), mask_of(*range(PATCHES))[None], views=2000, drop=0.25)[0]
    share = (views == 0).float().mean(dim=0)
    assert (share - 0.25).abs().max() < 0.05


def test_without_dropping_a_view_is_the_mean(region):
    masks = torch.stack([mask_of(1, 5, 6), mask_of()])
    views = views_of(region, masks, drop=0.0)
    torch.testing.assert_close(views, pool(region, masks)[:, None].expand(-1, 3, -1), rtol=1e-6, atol=1e-6)


def test_views_depend_only_on_the_generator(region):
    masks = torch.stack([mask_of(*range(20)), mask_of(*range(10, 40))])
    torch.rand(100)  # the global generator must not matter
    assert torch.equal(views_of(region, masks, seed=7), views_of(region, masks, seed=7))
    assert not torch.equal(views_of(region, masks, seed=7), views_of(region, masks, seed=8))
    views = views_of(region, masks)
    assert not torch.equal(views[0, 0], views[0, 1])

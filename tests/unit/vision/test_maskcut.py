"""MaskCut against the dense reference on scenes and on difficult graphs, and each of its rules."""

import numpy as np
import patch_scenes
import pytest
import torch
from dense_maskcut import dense_maskcut

from hf_relabel.vision.maskcut import component, maskcut_batch, split
from hf_relabel.vision.ncut import affinity

GRID = (16, 16)
TAU = 0.4


def scene(seed: int, grid: tuple[int, int] = GRID) -> torch.Tensor:
    """Features [n, 48] of a generated scene."""
    return patch_scenes.scene(seed, grid, channels=48)


def from_kinds(kinds: np.ndarray) -> torch.Tensor:
    """Features [n, k]: equal for patches of one kind, orthogonal for two kinds; kind -1 has no feature."""
    flat = torch.from_numpy(np.ascontiguousarray(kinds)).flatten()
    features = torch.nn.functional.one_hot(flat.clamp(min=0), int(flat.max()) + 1).float()
    return features * (flat >= 0)[:, None]


def cut(features: torch.Tensor, grid: tuple[int, int] = GRID, max_masks: int = 4) -> np.ndarray:
    (masks,) = maskcut_batch(features[None], grid, tau=TAU, max_masks=max_masks)
    return masks


def reference(features: torch.Tensor, grid: tuple[int, int] = GRID, max_masks: int = 4) -> np.ndarray:
    return dense_maskcut(features.numpy(), grid, tau=TAU, max_masks=max_masks)


def test_masks_of_scenes_equal_the_reference():
    for seed in range(12):
        np.testing.assert_array_equal(cut(scene(seed)), reference(scene(seed)), err_msg=f"scene {seed}")


def test_grid_that_is_not_square():
    features = scene(3, (9, 21))
    np.testing.assert_array_equal(cut(features, (9, 21)), reference(features, (9, 21)))


def test_masks_are_disjoint_and_not_empty():
    masks = cut(scene(1), max_masks=8)
    assert masks.dtype == bool
    assert masks.shape[1:] == GRID
    assert 0 < len(masks) <= 8
    assert masks.any(axis=(1, 2)).all()
    assert masks.sum(axis=0).max() == 1


def test_scale_and_precision_of_features_do_not_change_the_masks():
    features = scene(2)
    lengths = torch.linspace(0.01, 50, len(features))[:, None]
    np.testing.assert_array_equal(cut(features * lengths), cut(features))
    half = features.half()
    np.testing.assert_array_equal(cut(half), cut(half.float()))


def test_masks_do_not_depend_on_the_batch():
    batch = torch.stack([scene(seed) for seed in range(5)])
    alone = [cut(features) for features in batch]
    for together, expected in zip(maskcut_batch(batch.flip(0), GRID, tau=TAU, max_masks=4)[::-1], alone, strict=True):
        np.testing.assert_array_equal(together, expected)


# Graphs without a usable second eigenvector


@pytest.mark.parametrize(
    "features",
    [torch.ones(256, 8), torch.zeros(256, 8), torch.eye(256)],
    ids=["constant", "all zero", "all different"],
)
def test_uniform_features_give_no_mask(features):
    masks = cut(features)
    assert masks.shape == (0, *GRID)
    assert masks.dtype == bool


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite(value):
    features = scene(0)
    features[7, 3] = value
    masks = maskcut_batch(torch.stack([scene(0), features]), GRID, tau=TAU, max_masks=4)
    np.testing.assert_array_equal(masks[0], cut(scene(0)))
    assert masks[1] is None


# Graphs with several components


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ([np.s_[:, 8:]], [0]),
        ([np.s_[4:9, 5:12]], [1]),
        ([np.s_[2:6, 9:13], np.s_[9:13, 2:6]], [1, 2]),
    ],
    ids=["of two equal halves the one with the first patch", "the smaller part", "equal objects in row-major order"],
)
def test_graphs_of_several_parts(parts, found):
    kinds = np.zeros(GRID, dtype=int)
    for kind, part in enumerate(parts, 1):
        kinds[part] = kind
    masks = cut(from_kinds(kinds))
    np.testing.assert_array_equal(masks, reference(from_kinds(kinds)))
    np.testing.assert_array_equal(masks[: len(found)], [kinds == kind for kind in found])


def test_four_equal_quarters_stay_whole():
    """Three eigenvectors share one eigenvalue, so the order of the quarters is arbitrary."""
    kinds = np.zeros(GRID, dtype=int)
    kinds[8:] += 2
    kinds[:, 8:] += 1
    masks = cut(from_kinds(kinds))
    assert len(masks) > 0
    for mask in masks:
        assert all(mask[kinds == kind].all() or not mask[kinds == kind].any() for kind in range(4))


def test_one_outlier_is_the_only_mask():
    kinds = np.zeros(GRID, dtype=int)
    kinds[5, 6] = 1
    masks = cut(from_kinds(kinds))
    np.testing.assert_array_equal(masks, reference(from_kinds(kinds)))
    np.testing.assert_array_equal(masks, [kinds == 1])


def test_ties_of_outliers_go_to_the_first():
    features = torch.nn.functional.pad(scene(4), (0, 5))
    for index, patch in enumerate((37, 90, 91, 200, 222)):
        features[patch] = torch.eye(features.shape[1])[48 + index]
    np.testing.assert_array_equal(cut(features), reference(features))


def test_patches_without_a_feature():
    features = scene(5)
    features[40:90] = 0
    np.testing.assert_array_equal(cut(features), reference(features))


# Rounds


@pytest.mark.slow
def test_a_rejected_mask_can_be_accepted_in_the_next_round():
    """Search for scenes with more masks than there would be if the rounds ended at the first rejection."""
    accepted_later = 0
    for seed in range(40):
        many = cut(scene(seed), max_masks=8)
        for rounds in range(1, 8):
            fewer, more = (len(cut(scene(seed), max_masks=rounds + k)) for k in (0, 1))
            if fewer == more < len(many):
                accepted_later += 1
                np.testing.assert_array_equal(many, reference(scene(seed), max_masks=8))
                break
        if accepted_later == 2:
            return
    pytest.fail("no scene with such a mask")


# Sides, seeds and components


def none_excluded(vector: np.ndarray) -> np.ndarray:
    return np.zeros(vector.shape, bool)


@pytest.mark.parametrize("sign", [1, -1])
def test_foreground_has_at_most_two_corners(sign):
    vector = np.ones(16)
    vector[5] = -1.0
    side, seed = split(sign * vector, none_excluded(vector), (4, 4))
    assert np.flatnonzero(side).tolist() == [5]
    assert seed == 5


@pytest.mark.parametrize("sign", [1, -1])
def test_with_two_corners_each_the_larger_magnitude_is_foreground(sign):
    vector = np.array([1.0, 1, -1, -1, 1, 1, -1.5, -1])
    side, seed = split(sign * vector, none_excluded(vector), (2, 4))
    assert side.astype(int).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert seed == 6


@pytest.mark.parametrize("sign", [1, -1])
def test_with_two_equal_sides_the_first_patch_is_foreground(sign):
    vector = np.array([1.0, -1, 1, -1 - 1e-9])
    side, seed = split(sign * vector, none_excluded(vector), (2, 2))
    assert side.astype(int).tolist() == [1, 0, 1, 0]
    assert seed == 0


def test_excluded_patches_are_split_by_sign():
    vector = np.array([3.0, -1, 1e-9, -1, -1, 0])
    excluded = np.array([False, False, True, False, False, False])
    side, _ = split(vector, excluded, (2, 3))
    assert side.astype(int).tolist() == [1, 0, 1, 0, 0, 0]


def test_component_is_4_connected():
    side = np.array([1, 0, 1, 1, 0, 1, 1, 1, 0], bool)
    assert component(side, 3, (3, 3)).astype(int).tolist() == [1, 0, 0, 1, 0, 0, 1, 1, 0]
    assert component(side, 5, (3, 3)).astype(int).tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 0]


def test_component_is_empty_if_the_seed_is_outside():
    assert not component(np.array([1, 0, 1, 1], bool), 1, (2, 2)).any()


def test_affinity_is_symmetric_and_thresholded_at_tau():
    unit = torch.nn.functional.normalize(scene(0, (24, 25)), dim=1)
    joined = affinity(unit[None], TAU)[0]
    expected = unit.double() @ unit.double().T
    assert torch.equal(joined, joined.T)
    decided = (expected - TAU).abs() > 1e-6
    assert torch.equal(joined[decided].bool(), (expected > TAU)[decided])


@pytest.mark.parametrize("allowed", ["highest", "high", "medium"])
def test_affinity_restores_the_precision_setting(allowed):
    setting = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(allowed)
    try:
        affinity(torch.eye(4)[None], TAU)
        assert torch.get_float32_matmul_precision() == allowed
    finally:
        torch.set_float32_matmul_precision(setting)


# Invalid arguments


def test_invalid_shapes_and_settings():
    with pytest.raises(ValueError, match="16 \\* 15"):
        maskcut_batch(scene(0)[None], (16, 15), tau=TAU, max_masks=3)
    with pytest.raises(ValueError, match="tau"):
        maskcut_batch(scene(0)[None], GRID, tau=-0.1, max_masks=3)

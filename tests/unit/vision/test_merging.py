import numpy as np
import pytest

from hf_relabel.vision.merging import MAX_IOU, merge_masks, merge_tree


def scene(grid, boxes, dim=16, noise=0.05, seed=0):
    """Patch features of a plain background and of one object per box (top, left, bottom, right)."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    features = np.tile(directions[0], (*grid, 1))
    for k, (top, left, bottom, right) in enumerate(boxes, start=1):
        features[top:bottom, left:right] = directions[k]
    return (features + noise * rng.normal(size=features.shape)).reshape(-1, dim).astype(np.float32)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def box_mask(grid, box):
    mask = np.zeros(grid, bool)
    mask[box[0] : box[2], box[1] : box[3]] = True
    return mask


def test_objects_of_different_sizes_are_the_first_proposals():
    grid, boxes = (20, 24), [(2, 3, 8, 9), (10, 4, 18, 14), (3, 15, 6, 20)]
    masks = merge_masks(scene(grid, boxes), grid, count=5)
    for box in boxes:
        assert max(iou(mask, box_mask(grid, box)) for mask in masks[:4]) > 0.95


def test_a_whole_and_its_parts_are_both_proposed():
    grid = (16, 16)
    features = scene(grid, [(4, 4, 12, 8), (4, 8, 12, 12)], noise=0.02)
    halves = features.reshape(*grid, -1)
    halves[4:12, 4:8] += 1.5 * halves[4:12, 8:12]  # two parts more alike than either is to the background
    masks = merge_masks(halves.reshape(len(features), -1), grid, count=6)
    for box in [(4, 4, 12, 8), (4, 8, 12, 12), (4, 4, 12, 12)]:
        assert max(iou(mask, box_mask(grid, box)) for mask in masks) > 0.95


def test_regions_are_connected_and_of_a_reasonable_size():
    from scipy import ndimage

    grid = (18, 18)
    features = np.random.default_rng(1).normal(size=(18 * 18, 8)).astype(np.float32)
    masks = merge_masks(features, grid, count=20)
    assert len(masks) == 20
    for mask in masks:
        assert ndimage.label(mask)[1] == 1
        assert 6 <= mask.sum() <= 0.8 * mask.size


def test_near_duplicates_are_left_out_within_and_against_other_proposals():
    grid, boxes = (20, 20), [(2, 2, 9, 9), (11, 11, 18, 18)]
    features = scene(grid, boxes)
    other = box_mask(grid, boxes[0])
    masks = merge_masks(features, grid, count=20, others=other[None])
    assert max(iou(mask, other) for mask in masks) <= MAX_IOU
    pairs = [(a, b) for k, a in enumerate(masks) for b in masks[:k]]
    assert max(iou(a, b) for a, b in pairs) <= MAX_IOU
    assert max(iou(mask, box_mask(grid, boxes[1])) for mask in masks) > 0.95


def test_the_tree_holds_every_patch_once_at_each_level_and_heights_do_not_fall():
    grid = (9, 11)
    tree = merge_tree(np.random.default_rng(2).normal(size=(99, 6)).astype(np.float32), grid)
    assert sorted(tree.order) == list(range(99))
    assert tree.size[-1] == 99
    assert (tree.death >= tree.birth).all()
    for height in np.quantile(tree.birth, [0.2, 0.5, 0.9]):
        alive = [k for k in range(len(tree.size)) if tree.birth[k] <= height < tree.death[k]]
        assert (sum(tree.mask(k).astype(int) for k in alive) == 1).all()


@pytest.mark.parametrize("features", [np.ones((36, 4)), np.zeros((36, 4))])
def test_constant_features_give_valid_masks(features):
    masks = merge_masks(features.astype(np.float32), (6, 6), count=5)
    assert masks.shape[1:] == (6, 6)
    assert all(mask.any() for mask in masks)


def test_a_grid_too_small_for_any_region():
    assert merge_masks(np.ones((4, 3), np.float32), (2, 2), count=5).shape == (0, 2, 2)


def test_features_that_do_not_fit_the_grid_are_refused():
    with pytest.raises(ValueError, match="6"):
        merge_masks(np.ones((35, 4), np.float32), (6, 6), count=5)

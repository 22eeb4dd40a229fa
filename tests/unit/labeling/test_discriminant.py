import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from hf_relabel.labeling.discriminant import Moments, folds_of

CPU = torch.device("cpu")


def clouds(regions=600, classes=4, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.integers(classes, size=regions)
    features = rng.normal(size=(classes, dim))[targets] * 1.5 + rng.normal(size=(regions, dim)) @ rng.normal(
        size=(dim, dim)
    )
    return torch.from_numpy(features), torch.from_numpy(targets), torch.from_numpy(rng.integers(3, size=regions))


def moments(features, targets, folds, pieces=4, classes=4):
    result = Moments(3, classes, features.shape[1], CPU)
    for part in torch.arange(len(targets)).chunk(pieces):
        result.add(result.of_shard(features[part], targets[part], folds[part]))
    return result


def test_it_agrees_with_scikit_learn():
    features, targets, folds = clouds()
    ours = moments(features, targets, folds).fit(shrinkage=1e-9)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(features.numpy(), targets.numpy())
    difference = ours.log_posterior(features).exp().numpy() - theirs.predict_proba(features.numpy())
    assert np.abs(difference).max() < 0.03  # the pseudo-count, and the scaling of the covariance


def test_a_fold_left_out_has_no_influence():
    features, targets, folds = clouds()
    rest = folds != 1
    left_out = moments(features, targets, folds).fit(0.3, without=[1])
    alone = moments(features[rest], targets[rest], folds[rest]).fit(0.3)
    assert torch.allclose(left_out.weights, alone.weights)
    assert torch.allclose(left_out.bias, alone.bias)


def test_several_folds_are_left_out_together():
    features, targets, folds = clouds()
    left_out = moments(features, targets, folds).fit(0.3, without=[0, 2])
    alone = moments(features[folds == 1], targets[folds == 1], folds[folds == 1]).fit(0.3)
    assert torch.allclose(left_out.weights, alone.weights)


def test_the_result_does_not_depend_on_the_cut_into_shards():
    features, targets, folds = clouds()
    one, many = (moments(features, targets, folds, pieces).fit(0.3) for pieces in (1, 50))
    assert torch.allclose(one.weights, many.weights)


def test_a_class_without_regions_stays_defined():
    features, targets, folds = clouds(classes=3)
    found = moments(features, targets, folds, classes=4).fit(0.3)
    posterior = found.log_posterior(features).exp()
    assert torch.isfinite(posterior).all()
    assert posterior[:, 3].max() < posterior[:, :3].max(dim=1).values.min()


def test_no_regions_at_all():
    found = Moments(3, 4, 5, CPU).fit(0.3, without=[0])
    assert torch.isfinite(found.weights).all()


@pytest.mark.parametrize("seed", [0, 7])
def test_folds_depend_on_image_and_seed_and_are_even(seed):
    images = [f"{number:064x}" for number in range(2000)]
    folds = folds_of(images, 5, seed)
    assert np.bincount(folds).min() > 330
    assert np.array_equal(folds_of(images[::-1], 5, seed)[::-1], folds)
    assert not np.array_equal(folds, folds_of(images, 5, seed + 1))


def test_a_shard_needs_memory_for_its_own_classes_only():
    """21,000 classes, as ImageNet-21k: 64 regions of a shard have at most 64 sums, not folds x classes of them."""
    features, _, folds = clouds(regions=64)
    targets = torch.from_numpy(np.random.default_rng(0).integers(0, 21_000, 64))
    total = Moments(3, 21_000, features.shape[1], CPU)
    part = total.of_shard(features, targets, folds)
    assert len(part.sums) <= 64
    total.add(part)
    total.add(part)
    assert total.regions == 128
    same = (folds == folds[0]) & (targets == targets[0])
    assert torch.allclose(total.sums[folds[0] * 21_000 + targets[0]], 2 * features[same].sum(0))

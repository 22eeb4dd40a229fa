"""Linear discriminants on region features, fitted for each fold from sums of the features.

A discriminant (Fisher 1936; Rao 1948) models each class as a Gaussian; all classes share one covariance, shrunk towards
its diagonal (Friedman 1989). Its fit needs only counts, sums and outer products, so one pass over the stored features
in bounded memory is enough, and the discriminant that leaves a fold out is the total minus that fold's own sums. Sums
are added in the order of the shards, so the result does not depend on which process computed them.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

PSEUDO_COUNT = 1.0
"""Regions at the mean of all regions that every class is given, so that a class without any region stays defined."""


def folds_of(sha256: Sequence[str | None], folds: int, seed: int) -> np.ndarray:
    """The folds of images, int64 [images], each of which depends only on its file's hash and the seed.

    Copies of an image are in the same fold, so that none is judged by a classifier that was fitted on another; and the
    same images have the same folds whatever they are called.
    """
    digests = (hashlib.sha256(f"{seed}:fold:{image}".encode()).digest() for image in sha256)
    return np.array([int.from_bytes(digest[:8], "big") % folds for digest in digests], np.int64)


@dataclass(frozen=True)
class Discriminant:
    """A linear classifier whose softmax is the posterior of Gaussian classes.

    Args:
        weights: float [dim, classes].
        bias: float [classes].
    """

    weights: torch.Tensor
    bias: torch.Tensor

    def log_posterior(self, features: torch.Tensor) -> torch.Tensor:
        """Log probabilities of the classes, float [n, classes], for features [n, dim] of the same dtype."""
        return torch.log_softmax(features @ self.weights + self.bias, dim=1)


@dataclass(frozen=True)
class ShardMoments:
    """What one shard adds to `Moments`: sums of the classes that occur in it, float64.

    Args:
        keys: `fold * classes + class` of each row of `counts` and `sums`, ascending, int64 [present].
        counts: Number of regions, [present].
        sums: Sums of the features, [present, dim].
        products: Sums of the outer products of the features by fold, [folds, dim, dim].
    """

    keys: torch.Tensor
    counts: torch.Tensor
    sums: torch.Tensor
    products: torch.Tensor


class Moments:
    """Counts, sums and outer products of region features by fold and class; float64."""

    def __init__(self, folds: int, classes: int, dim: int, device: torch.device):
        self.folds = folds
        self.classes = classes
        self.counts = torch.zeros(folds * classes, dtype=torch.float64, device=device)
        self.sums = torch.zeros(folds * classes, dim, dtype=torch.float64, device=device)
        self.products = torch.zeros(folds, dim, dim, dtype=torch.float64, device=device)

    def of_shard(self, features: torch.Tensor, targets: torch.Tensor, folds: torch.Tensor) -> ShardMoments:
        """Compute what regions add: features float64 [n, dim], targets int64 [n], folds int64 [n]."""
        keys, inverse = torch.unique(folds * self.classes + targets, return_inverse=True)
        counts = torch.zeros(len(keys), dtype=torch.float64, device=features.device)
        sums = torch.zeros(len(keys), features.shape[1], dtype=torch.float64, device=features.device)
        counts.index_add_(0, inverse, torch.ones_like(targets, dtype=torch.float64))
        sums.index_add_(0, inverse, features)
        products = torch.zeros_like(self.products)
        for fold in range(self.folds):
            mine = features[folds == fold]
            products[fold] = mine.T @ mine
        return ShardMoments(keys, counts, sums, products)

    def add(self, part: ShardMoments) -> None:
        """Add the regions of a shard."""
        self.counts[part.keys] += part.counts
        self.sums[part.keys] += part.sums
        self.products += part.products

    @property
    def regions(self) -> int:
        """Number of regions added."""
        return int(self.counts.sum())

    def fit(self, shrinkage: float, without: Iterable[int] = ()) -> Discriminant:
        """Fit the discriminant to all folds but those that are left out.

        Args:
            shrinkage: Weight of the covariance's diagonal against the full covariance, above 0 and at most 1.
            without: The folds to leave out.

        Returns:
            Weights and bias in float64.
        """
        shape = (self.folds, self.classes)
        counts = self.counts.view(shape).sum(0)
        sums = self.sums.view(*shape, -1).sum(0)
        products = self.products.sum(0)
        for fold in without:
            mine = slice(fold * self.classes, (fold + 1) * self.classes)
            counts, sums = counts - self.counts[mine], sums - self.sums[mine]
            products = products - self.products[fold]
        total = counts.sum().clamp(min=1)
        center = sums.sum(0) / total
        observed = sums / counts.clamp(min=1)[:, None]
        within = (products - (observed.T * counts) @ observed) / total
        spread = within.diagonal().clamp(min=1e-8)
        covariance = (1 - shrinkage) * within + torch.diag(shrinkage * spread + 1e-8 * spread.mean())
        means = (sums + PSEUDO_COUNT * center) / (counts + PSEUDO_COUNT)[:, None]
        weights = torch.linalg.solve(covariance, means.T)
        prior = torch.log((counts + PSEUDO_COUNT) / (total + PSEUDO_COUNT * self.classes))
        return Discriminant(weights, prior - (means.T * weights).sum(0) / 2)

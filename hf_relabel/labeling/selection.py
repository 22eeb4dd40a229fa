"""Select the proposals that show the original label without a teacher: multiple-instance learning.

An image's label applies to at least one of its regions, but not to most of them. A linear classifier fitted to all
regions with their image's label still finds the right direction, because the wrong regions are spread over all
directions. Each round then selects from every image the region with the highest probability of the label and all
confident regions, and fits the classifier again on this selection. A region is always scored by a classifier that was
not fitted on its image (cross-fitting); otherwise it would confirm its own label.

The classifier is a linear discriminant (Fisher 1936; Rao 1948) with a shared covariance that is shrunk towards its
diagonal (Friedman 1989). A fit needs only counts, sums and products of the features, so a round is one pass over the
stored features in bounded memory, and the classifier of a fold follows from the totals minus the sums of that fold.
Sums are added in the order of the shards, so the result does not depend on which process computes them.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from hf_relabel.config import BootstrapConfig
from hf_relabel.errors import StageError
from hf_relabel.run.job import Job
from hf_relabel.run.progress import progress_bar
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.store import atomic_open, read_record, write_record

WEIGHTS = "bootstrap.safetensors"
RECORD = "bootstrap.json"

PSEUDO_COUNT = 1.0
"""Number of regions at the overall mean that are added to every class, so that a class without regions is defined."""


@dataclass(frozen=True)
class Bootstrap:
    """The classifiers of the last round, one per fold.

    Args:
        weights: float32 [folds, dim, classes].
        bias: float32 [folds, classes].
        seed: Seed of the run, which determines each image's fold.
    """

    weights: torch.Tensor
    bias: torch.Tensor
    seed: int

    def probabilities(self, regions: np.ndarray, image_id: str) -> np.ndarray:
        """Classify an image's regions with the classifier that was not fitted on this image.

        Args:
            regions: Pooled features, float16 [n, dim].
            image_id: Image that the regions belong to.

        Returns:
            Probabilities of all classes, float32 [n, classes].
        """
        fold = fold_of(image_id, len(self.bias), self.seed)
        logits = torch.from_numpy(np.array(regions)).float() @ self.weights[fold] + self.bias[fold]
        return torch.softmax(logits, dim=1).numpy()


def fold_of(image_id: str, folds: int, seed: int) -> int:
    """Return the fold of an image, which depends only on its id and the seed."""
    digest = hashlib.sha256(f"{seed}:fold:{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % folds


@dataclass
class Moments:
    """Sums from which a linear discriminant is fitted, separately for each fold; float64.

    Args:
        counts: Number of regions, [folds, classes].
        sums: Sums of the features, [folds, classes, dim].
        products: Sums of the outer products of the features, [folds, dim, dim].
    """

    counts: torch.Tensor
    sums: torch.Tensor
    products: torch.Tensor

    @classmethod
    def zeros(cls, folds: int, classes: int, dim: int, device: torch.device) -> "Moments":
        """Create the moments of an empty set of regions."""
        shapes = ((folds, classes), (folds, classes, dim), (folds, dim, dim))
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def add(self, features: torch.Tensor, labels: torch.Tensor, folds: torch.Tensor) -> None:
        """Add regions.

        Args:
            features: float64 [n, dim].
            labels: Class indices, int64 [n].
            folds: Fold of each region, int64 [n].
        """
        self.merge(PartialMoments.of(features, labels, folds, len(self.counts)))

    def merge(self, part: "PartialMoments") -> None:
        """Add the sums of some regions; each pair of fold and class occurs once in them."""
        self.counts[part.fold, part.label] += part.counts
        self.sums[part.fold, part.label] += part.sums
        self.products += part.products

    def fit(self, fold: int, shrinkage: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Fit the discriminant on all folds except one.

        The softmax of its scores is the posterior of Gaussian classes with a shared covariance and the observed class
        frequencies.

        Args:
            fold: Fold to leave out.
            shrinkage: Weight of the diagonal in the covariance, in (0, 1].

        Returns:
            Weights [dim, classes] and bias [classes], float64.
        """
        counts = self.counts.sum(0) - self.counts[fold]
        sums = self.sums.sum(0) - self.sums[fold]
        total = counts.sum().clamp(min=1)
        center = sums.sum(0) / total
        observed = sums / counts.clamp(min=1)[:, None]
        within = (self.products.sum(0) - self.products[fold] - (observed.T * counts) @ observed) / total
        spread = within.diagonal().clamp(min=1e-8)
        covariance = (1 - shrinkage) * within + torch.diag(shrinkage * spread + 1e-8 * spread.mean())
        means = (sums + PSEUDO_COUNT * center) / (counts + PSEUDO_COUNT)[:, None]
        weights = torch.linalg.solve(covariance, means.T)
        prior = torch.log((counts + PSEUDO_COUNT) / (total + PSEUDO_COUNT * len(counts)))
        return weights, prior - (means.T * weights).sum(0) / 2


@dataclass(frozen=True)
class PartialMoments:
    """The moments of some regions, with an entry only for the k pairs of fold and class that occur in them.

    A shard of a thousand images has far fewer pairs than folds times classes, so a thread that adds up a shard needs
    little memory even with tens of thousands of classes.

    Args:
        fold: int64 [k].
        label: int64 [k].
        counts: Number of regions, float64 [k].
        sums: Sums of the features, float64 [k, dim].
        products: Sums of the outer products of the features, float64 [folds, dim, dim].
    """

    fold: torch.Tensor
    label: torch.Tensor
    counts: torch.Tensor
    sums: torch.Tensor
    products: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor, labels: torch.Tensor, folds: torch.Tensor, count: int) -> "PartialMoments":
        """Add up regions: float64 [n, dim], int64 [n] and int64 [n], the latter below `count`."""
        dim = features.shape[1]
        products = features.new_zeros((count, dim, dim))
        for fold in range(count):
            x = features[folds == fold]
            products[fold] = x.T @ x
        pairs, place = torch.unique(torch.stack([folds, labels], dim=1), dim=0, return_inverse=True)
        counts = features.new_zeros(len(pairs)).index_add_(0, place, torch.ones_like(place, dtype=torch.float64))
        sums = features.new_zeros((len(pairs), dim)).index_add_(0, place, features)
        return cls(pairs[:, 0], pairs[:, 1], counts, sums, products)


@dataclass(frozen=True)
class _ShardRegions:
    """The n regions of one shard, without their features.

    Args:
        row: Row in the shard's feature file, int32 [n].
        image: Number of the region's image in the shard, int [n].
        label: Label of the image, int32 [n].
        fold: Fold of the image, int32 [n].
    """

    row: np.ndarray
    image: np.ndarray
    label: np.ndarray
    fold: np.ndarray


def fit_bootstrap(job: Job, proposals: ShardFolder, scores: ShardFolder, threads: ThreadPoolExecutor) -> Bootstrap:
    """Fit the classifiers on all stored region features; one process computes, the others wait for its file.

    Raises:
        StageError: No image has a proposal.
    """
    folder, digest = scores.folder, scores.fingerprint.digest

    def find() -> Bootstrap | None:
        return _load(folder, digest, job.config.run.seed)

    def make() -> Bootstrap:
        _save(folder, digest, *_fit_rounds(job, proposals, threads))
        found = find()
        assert found is not None
        return found

    return job.once(folder, "the selection of regions", find, make)


def _fit_rounds(
    job: Job, proposals: ShardFolder, threads: ThreadPoolExecutor
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Return the weights and bias of the last round, and the number of regions that each round was fitted on."""
    config = job.config.score.bootstrap
    classes, device = len(job.snapshot.class_names), job.rank.device
    dim = proposals.features(0).shape[-1]
    weights = torch.empty((config.folds, dim, classes), dtype=torch.float64, device=device)
    bias = torch.empty((config.folds, classes), dtype=torch.float64, device=device)
    selected: list[int] = []

    def read(shard: int) -> _ShardRegions:
        return _read_regions(proposals, shard, config.folds, job.config.run.seed)

    regions = list(_in_order(threads, read, len(job.shards), job.rank.threads))

    def moments_of(shard: int) -> PartialMoments:
        mine = regions[shard]
        x = torch.from_numpy(np.array(proposals.features(shard)[mine.row, 0])).to(device).double()
        fold, label = (torch.from_numpy(part).to(device).long() for part in (mine.fold, mine.label))
        if selected:
            chosen = _choose(x, mine, weights, bias, config)
            x, fold, label = x[chosen], fold[chosen], label[chosen]
        return PartialMoments.of(x, label, fold, config.folds)

    # The first fit uses every region; each later round selects regions again and refits.
    with progress_bar(config.rounds + 1, "selection", "fits", job.rank) as bar:
        for _ in range(config.rounds + 1):
            total = Moments.zeros(config.folds, classes, dim, device)
            for moments in _in_order(threads, moments_of, len(job.shards), job.rank.threads):
                total.merge(moments)
            selected.append(int(total.counts.sum()))
            if not selected[0]:
                raise StageError(
                    f"{proposals.folder}: no image has a proposal; propose.tau {job.config.propose.tau} does not work "
                    "for this backbone and feature: try other values on a few images"
                )
            for fold in range(config.folds):
                weights[fold], bias[fold] = total.fit(fold, config.shrinkage)
            bar.update()
    return weights, bias, selected


def _in_order(threads: ThreadPoolExecutor, work: Any, count: int, ahead: int) -> Iterator[Any]:
    """Yield `work(0)`, `work(1)`, ... in order, `ahead` computed at a time so that few results are in memory."""
    numbers = iter(range(count))
    while chunk := list(islice(numbers, ahead)):
        yield from threads.map(work, chunk)


def _read_regions(proposals: ShardFolder, shard: int, folds: int, seed: int) -> _ShardRegions:
    """Read which regions a shard has; its table is read once, its features in every round."""
    columns = ["image_id", "label", "feature_row", "proposals.list.element.patches"]
    rows = proposals.read(shard, columns).to_pylist()
    sizes = np.array([len(row["proposals"]) for row in rows])
    at = [row["feature_row"] + 1 + k for row in rows for k in range(len(row["proposals"]))]
    folds_of_images = np.array([fold_of(row["image_id"], folds, seed) for row in rows], np.int32)
    labels = np.array([row["label"] for row in rows], np.int32)
    image = np.repeat(np.arange(len(rows), dtype=np.int32), sizes)
    return _ShardRegions(np.array(at, np.int32), image, labels[image], folds_of_images[image])


def _choose(
    x: torch.Tensor, regions: _ShardRegions, weights: torch.Tensor, bias: torch.Tensor, config: BootstrapConfig
) -> torch.Tensor:
    """Select the regions of the next fit, bool [n]: the best of each image for its label, and all confident ones."""
    probability = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    fold, label = (torch.from_numpy(part).to(x.device).long() for part in (regions.fold, regions.label))
    for index in range(config.folds):
        mine = fold == index
        logits = x[mine] @ weights[index] + bias[index]
        probability[mine] = torch.softmax(logits, dim=1).gather(1, label[mine, None])[:, 0]
    return torch.from_numpy(best_of_images(probability.cpu().numpy(), regions.image)).to(x.device) | (
        probability >= config.confident
    )


def best_of_images(probability: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Mark each image's most probable region; the first one in case of a tie.

    Args:
        probability: Probability of the original label, float [n].
        image: Image of each region, int [n], ascending.

    Returns:
        bool [n].
    """
    best = np.zeros(len(image), bool)
    order = np.lexsort((-probability, image))  # stable: by image, then by descending probability
    first = np.r_[True, np.diff(image[order]) > 0][: len(order)]
    best[order[first]] = True
    return best


def _save(folder: Path, digest: str, weights: torch.Tensor, bias: torch.Tensor, selected: list[int]) -> None:
    state = {"weights": weights.float().cpu().contiguous(), "bias": bias.float().cpu().contiguous()}
    content = to_bytes(state)
    with atomic_open(folder / WEIGHTS) as file:
        file.write(content)
    sha256 = hashlib.sha256(content).hexdigest()
    write_record(folder / RECORD, {"digest": digest, "regions_fitted": selected, "weights_sha256": sha256})


def _load(folder: Path, digest: str, seed: int) -> Bootstrap | None:
    """The stored classifiers; None if there are none for this digest, or they are damaged: then they are made again."""
    try:
        record = read_record(folder / RECORD)
        content = (folder / WEIGHTS).read_bytes() if record and record["digest"] == digest else b""
    except (StageError, FileNotFoundError):
        return None
    if record is None or hashlib.sha256(content).hexdigest() != record["weights_sha256"]:
        return None
    tensors = from_bytes(content)
    return Bootstrap(tensors["weights"], tensors["bias"], seed)

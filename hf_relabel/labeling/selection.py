"""Select what regions train as, without a teacher: multiple-instance learning with a background class.

An image's label applies to at least one of its regions, but not to most of them. A linear classifier fitted to all
proposals with their image's label still finds the right direction, because the wrong ones are spread over all
directions. Each round then assigns the regions of every image again, to a class, to background or to nothing
(`assignment.py`), and fits the classifier again (`discriminant.py`). A region is always judged by a classifier that was
not fitted on its image (cross-fitting); otherwise it would confirm its own label.

The features are read once per round, in bounded memory; the tables once, as far as `LAYOUT_BYTES` allows.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from hf_relabel.config import BootstrapConfig
from hf_relabel.errors import StageError
from hf_relabel.labeling.assignment import NOTHING, Assignment, assign, is_primary
from hf_relabel.labeling.discriminant import Discriminant, Moments, ShardMoments, folds_of
from hf_relabel.labeling.regions import ShardLayout, ShardRegions, read_layout
from hf_relabel.run.job import Job
from hf_relabel.run.progress import progress_bar
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.store import atomic_open, read_record, write_record

LAYOUT_BYTES = 2**31
"""Memory for what the tables say about regions, about 6 kB per image; the tables of further shards are read in every
round."""

WEIGHTS = "bootstrap.safetensors"
RECORD = "bootstrap.json"

T = TypeVar("T")


@dataclass(frozen=True)
class Selection:
    """The classifiers of the last round, one per fold, and how they assign regions.

    Args:
        weights: float64 [folds, dim, outputs]; the outputs are the classes and, after the first round, background.
        bias: float64 [folds, outputs].
        classes: Number of classes.
        seed: Seed of the run, which determines each image's fold.
        config: Settings of the assignment.
    """

    weights: torch.Tensor
    bias: torch.Tensor
    classes: int
    seed: int
    config: BootstrapConfig

    def posterior(self, regions: ShardRegions) -> np.ndarray:
        """Probabilities of the outputs for each region, by the classifier not fitted on its image: [n, outputs]."""
        folds = folds_of(regions.sha256, len(self.bias), self.seed)[regions.image]
        x = torch.from_numpy(regions.features).to(self.weights.device).double()
        logits = x.new_empty(len(x), self.bias.shape[1])
        for fold in np.unique(folds):
            mine = torch.from_numpy(folds == fold).to(x.device)
            logits[mine] = x[mine] @ self.weights[fold] + self.bias[fold]
        return torch.softmax(logits / self.config.temperature, dim=1).cpu().numpy()

    def assign(self, regions: ShardRegions, posterior: np.ndarray) -> Assignment:
        """Decide what the regions train as, from their `posterior`."""
        return assign(regions, posterior, self.classes, self.config)


def fit_selection(job: Job, proposals: ShardFolder, scores: ShardFolder, threads: ThreadPoolExecutor) -> Selection:
    """Fit the classifiers on all stored region features; one process computes, the others wait for its file.

    Raises:
        StageError: No image has a proposal.
    """
    folder, digest = scores.folder, scores.fingerprint.digest

    def find() -> Selection | None:
        return _load(folder, digest, job)

    def make() -> Selection:
        _save(folder, digest, *_fit_rounds(job, proposals, threads))
        found = find()
        assert found is not None
        return found

    return job.once(folder, "the selection of regions", find, make)


def _fit_rounds(job: Job, proposals: ShardFolder, threads: ThreadPoolExecutor) -> tuple[Selection, list[int]]:
    """The classifiers of the last round, and the number of regions that each was fitted on."""
    config, seed = job.config.score.bootstrap, job.config.run.seed
    classes, device = len(job.snapshot.class_names), job.rank.device
    layouts = _Layouts(proposals)
    selection: Selection | None = None
    fitted: list[int] = []
    with progress_bar(config.rounds, "selection", "fits", job.rank) as bar:
        for _ in range(config.rounds):
            outputs = classes if selection is None else classes + 1
            total = Moments(config.folds, outputs, proposals.features(0).shape[-1], device)

            def moments_of(shard: int, current: Selection | None = selection, total: Moments = total) -> ShardMoments:
                regions = layouts.regions(shard)
                if current is None:  # the first fit takes every proposal for its image's label
                    targets = np.where(is_primary(regions), regions.given, NOTHING)
                else:
                    targets = current.assign(regions, current.posterior(regions)).targets
                return shard_moments(total, regions, targets, seed)

            for part in in_order(threads, moments_of, len(job.shards), job.rank.threads):
                total.add(part)
            fitted.append(total.regions)
            if not total.regions:
                raise StageError(
                    f"{proposals.folder}: no image has a proposal; add `merge` to propose.generators, or try other "
                    "values of propose.tau on a few images"
                )
            fits = [total.fit(config.shrinkage, without=[fold]) for fold in range(config.folds)]
            selection = Selection(*stack(fits), classes, seed, config)
            bar.update()
    assert selection is not None
    return selection, fitted


class _Layouts:
    """Reads the regions of shards, and keeps their layouts from one round to the next."""

    def __init__(self, proposals: ShardFolder):
        self._proposals = proposals
        self._kept: dict[int, ShardLayout] = {}
        self._room = LAYOUT_BYTES

    def regions(self, shard: int) -> ShardRegions:
        """The regions of a shard, with their features."""
        layout = self._kept.get(shard)
        if layout is None:
            layout = read_layout(self._proposals, shard)
            if layout.nbytes <= self._room:
                self._kept[shard] = layout
                self._room -= layout.nbytes
        return layout.load(self._proposals.features(shard))


def shard_moments(total: Moments, regions: ShardRegions, targets: np.ndarray, seed: int) -> ShardMoments:
    """What the regions of a shard with a target, int64 [n], add to the moments of all shards."""
    trains = targets != NOTHING
    device = total.counts.device
    return total.of_shard(
        torch.from_numpy(regions.features[trains]).to(device).double(),
        torch.from_numpy(targets[trains]).to(device),
        torch.from_numpy(folds_of(regions.sha256, total.folds, seed)[regions.image[trains]]).to(device),
    )


def stack(fits: list[Discriminant]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [fits, dim, outputs] and bias [fits, outputs] of several discriminants."""
    return torch.stack([fit.weights for fit in fits]), torch.stack([fit.bias for fit in fits])


def in_order(threads: ThreadPoolExecutor, work: Callable[[int], T], count: int, ahead: int) -> Iterator[T]:
    """Yield `work(0)`, `work(1)`, ... in order, `ahead` computed at a time so that few results are in memory."""
    numbers = iter(range(count))
    while chunk := list(islice(numbers, ahead)):
        yield from threads.map(work, chunk)


def _save(folder: Path, digest: str, selection: Selection, fitted: list[int]) -> None:
    state = {"weights": selection.weights.cpu().contiguous(), "bias": selection.bias.cpu().contiguous()}
    content = to_bytes(state)
    with atomic_open(folder / WEIGHTS) as file:
        file.write(content)
    sha256 = hashlib.sha256(content).hexdigest()
    write_record(folder / RECORD, {"digest": digest, "regions_fitted": fitted, "weights_sha256": sha256})


def _load(folder: Path, digest: str, job: Job) -> Selection | None:
    """The stored classifiers; None if there are none for this digest, or they are damaged: then they are made again."""
    try:
        record = read_record(folder / RECORD)
        content = (folder / WEIGHTS).read_bytes() if record and record["digest"] == digest else b""
    except (StageError, FileNotFoundError):
        return None
    if record is None or hashlib.sha256(content).hexdigest() != record["weights_sha256"]:
        return None
    tensors = {name: tensor.to(job.rank.device) for name, tensor in from_bytes(content).items()}
    classes = len(job.snapshot.class_names)
    return Selection(**tensors, classes=classes, seed=job.config.run.seed, config=job.config.score.bootstrap)

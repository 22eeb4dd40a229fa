"""Train: the labeler on the stored features of the regions that train as a class or as background.

No image is read and no backbone runs. One process trains alone, in plain torch on its own device: the result cannot
depend on the number of processes, and no process group is involved. Then the labeler's scores are calibrated on the
images themselves, each judged by the head that was not trained on it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_relabel.config import BootstrapConfig, TrainConfig
from hf_relabel.errors import LabelerError, StageError
from hf_relabel.labeling.discriminant import Moments, folds_of
from hf_relabel.labeling.examples import gather_examples, no_region, pooled_feature, training_regions
from hf_relabel.labeling.gradient import GradientTrainer
from hf_relabel.labeling.labeler import Heads, HeadShape, ImageScores, Labeler, is_complete, read_config
from hf_relabel.labeling.scoring import HalfHeads, measure_scores
from hf_relabel.labeling.selection import in_order, stack
from hf_relabel.run.job import Job
from hf_relabel.run.progress import progress_bar
from hf_relabel.run.ranks import thread_pool
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.store import Fingerprint, differences

STAGE = "labeler"

ALGORITHM = 4
"""Raise it when a change of the code changes the trained heads or the calibration."""

CHECKPOINT = "checkpoint.pt"

FEW_REGIONS = 200
"""Median number of training regions per class below which `train.head: auto` takes the discriminant.

With 364 regions of 24 classes it reached an F1 of 0.961 on the demo's scenes, where the MLP reached 0.931."""

SHRINKAGE_PER_DIMENSION = 0.15
"""A discriminant's covariance is shrunk by at least this times its dimensions, divided by its number of regions.

A covariance of few regions is too small in the directions that they hardly span, and the discriminant is then sure of
everything: it added 47 labels to 60 photos of 20 classes, 3 of them true."""

HALVINGS = 4
"""Ways to halve the folds, for the learning curve: one alone is too noisy on a few hundred images."""

FOLDS = {"discriminant": 20, "linear": 5, "mlp": 5}
"""Folds that `train.folds` null stands for: further folds are nearly free for a discriminant."""

MIN_FOLDS_TO_HALVE = 4
"""With fewer folds, half of them is not clearly less than all but one."""


def run(job: Job) -> dict[str, Any]:
    """Train the labeler, or wait for the process that does; returns the training record of its `config.json`."""
    job = job.training
    proposals, manifest = job.finished("proposals", "propose")
    scores, scored = job.finished("scores", "score", proposals=proposals.fingerprint.digest)
    bootstrap = job.config.score.bootstrap
    fingerprint = Fingerprint(
        {
            "algorithm": ALGORITHM,
            **job.settings("train"),
            "score": {"merge": job.config.score.merge},
            "discriminant": {"shrinkage": bootstrap.shrinkage, "temperature": bootstrap.temperature},
            "run": {"seed": job.config.run.seed},
            "scores": scores.fingerprint.digest,
        }
    )
    folder = job.stage_folder(STAGE)
    class_names = job.snapshot.class_names

    def find() -> dict[str, Any] | None:
        config = read_config(folder) if is_complete(folder, fingerprint.digest) else None
        return config["training"] if config else None

    def make() -> dict[str, Any]:
        _clear_the_way(job, folder, fingerprint)
        with thread_pool(job.rank.threads) as threads:
            trainer = _Trainer(job, proposals, scores)
            heads, halves, result = trainer.fit(folder, fingerprint)
            heads = heads.to(job.rank.device)
            labeler = Labeler(heads, class_names, NO_SCORES, job.config.run.seed, manifest["inputs"]["backbone"], {})
            # Heads are too sure of the images that they were trained on: without folds there is nothing to measure.
            image_scores = NO_SCORES
            if labeler.folds:
                image_scores = measure_scores(labeler, halves, proposals, job.shards, threads, job.rank)
        upstream = {
            "proposals": {"inputs": manifest["inputs"]},
            "scores": {"inputs": scored["inputs"], "counters": scored["counters"]},
        }
        training = {"digest": fingerprint.digest, "inputs": fingerprint.inputs, "upstream": upstream, **result}
        training["scores"] = image_scores.to_json()
        labeler = Labeler(heads, class_names, image_scores, labeler.seed, labeler.backbone, training)
        labeler.save(folder)
        (folder / CHECKPOINT).unlink(missing_ok=True)
        return training

    return job.once(folder, f"the labeler in {folder}", find, make)


NO_SCORES = ImageScores("object", None, False, {})


def _clear_the_way(job: Job, folder: Path, fingerprint: Fingerprint) -> None:
    """Refuse a labeler made with another configuration, or with `run.overwrite` remove its record before training."""
    if job.config.run.overwrite:
        job.invalidate(STAGE)
        return
    try:
        stored = read_config(folder)
    except LabelerError as error:
        raise StageError(f"{error}, or use --run.overwrite true") from error
    if stored is None or stored["training"]["digest"] == fingerprint.digest:
        return
    changed = differences(stored["training"]["inputs"], fingerprint.inputs)
    raise StageError(
        f"{folder}: holds a labeler made with another configuration ({'; '.join(changed[:3])}); "
        "choose another --run.dir, or redo it with --run.overwrite true"
    )


class _Trainer:
    """Chooses the kind of head and fits the heads of all folds."""

    def __init__(self, job: Job, proposals: ShardFolder, scores: ShardFolder):
        self.job = job
        self.proposals = proposals
        self.scores = scores
        self.config: TrainConfig = job.config.train
        self.bootstrap: BootstrapConfig = job.config.score.bootstrap
        self.classes = len(job.snapshot.class_names)
        self.outputs = self.classes + int(self.config.background)
        self.dim = proposals.features(0).shape[-1]

    def fit(self, folder: Path, fingerprint: Fingerprint) -> tuple[Heads, HalfHeads | None, dict[str, Any]]:
        """Fit the heads; returns them, those on half of the images, and a record of the training.

        Only discriminants are fitted on half of the images as well, where that costs nothing. The other heads are for
        so many regions per class that half of them would do nearly as well.
        """
        per_class = self._regions_per_class()
        head = self.config.head
        if head == "auto":
            head = "discriminant" if np.median(per_class[per_class > 0]) < FEW_REGIONS else "mlp"
        folds = FOLDS[head] if self.config.folds is None else self.config.folds
        config = self.config
        shape = HeadShape(head, self.dim, self.outputs, config.hidden, config.layers, config.dropout)
        record = {"head": head, "folds": folds, "regions_per_class": float(np.median(per_class[per_class > 0]))}
        halves = None
        if head == "discriminant":
            heads, halves, result = self._discriminant(shape, folds)
        else:
            examples = gather_examples(
                self.job.shards,
                self.proposals,
                self.scores,
                folder,
                self.job.config,
                self.classes,
                lambda sha256: self._folds_of(sha256, folds),
            )
            trainer = GradientTrainer(examples, shape, 1 + folds, config, self.job.config.run.seed, self.job.rank)
            heads, result = trainer.fit(folder / CHECKPOINT, fingerprint.digest)
        return heads, halves, {**record, **result}

    def _folds_of(self, sha256: Sequence[str | None], folds: int) -> np.ndarray:
        if not folds:
            return np.full(len(sha256), -1)
        return folds_of(sha256, folds, self.job.config.run.seed)

    def _regions_per_class(self) -> np.ndarray:
        """Number of regions that train as each class, int64 [classes]."""
        counts = np.zeros(self.classes, np.int64)
        for shard in self.job.shards:
            _, regions = self._training_regions(shard.index)
            counts += np.bincount([r.target for r in regions if r.target < self.classes], minlength=self.classes)
        if not counts.any():
            raise no_region(self.scores.folder)
        return counts

    def _training_regions(self, shard: int) -> Any:
        return training_regions(
            shard, self.proposals, self.scores, self.classes, self.config, self.job.config.score.merge
        )

    def _discriminant(self, shape: HeadShape, folds: int) -> tuple[Heads, HalfHeads | None, dict[str, Any]]:
        """Fit linear heads in closed form."""
        total = Moments(max(1, folds), self.outputs, self.dim, self.job.rank.device)

        def moments_of(shard: int) -> Any:
            sha256, regions = self._training_regions(shard)
            features = self.proposals.features(shard)
            of_image = np.maximum(self._folds_of(sha256, folds), 0)
            pooled = np.zeros((len(regions), self.dim))
            for place, region in enumerate(regions):
                pooled[place] = pooled_feature(region, features)
            return total.of_shard(
                torch.from_numpy(pooled).to(total.counts.device),
                torch.tensor([region.target for region in regions], dtype=torch.int64, device=total.counts.device),
                torch.from_numpy(of_image[[region.image for region in regions]]).to(total.counts.device),
            )

        with thread_pool(self.job.rank.threads) as threads, progress_bar(1, "labeler", "fits", self.job.rank) as bar:
            for part in in_order(threads, moments_of, len(self.job.shards), self.job.rank.threads):
                total.add(part)
            bar.update()
        heads = self._linear(shape, total, [(), *((fold,) for fold in range(folds))])
        record = {"regions": total.regions, "held_out_regions": 0, "history": []}
        if folds < MIN_FOLDS_TO_HALVE:
            return heads, None, record
        of_fold = halve_folds(folds, HALVINGS)
        left_out = [np.flatnonzero(way == head).tolist() for way in of_fold for head in np.unique(way)]
        share = folds / 2 / (folds - 1)
        return heads, HalfHeads(self._linear(shape, total, left_out), of_fold, share), record

    def _linear(self, shape: HeadShape, total: Moments, left_out: Sequence[Sequence[int]]) -> Heads:
        """Fit one head without each of these groups of folds; the temperature is part of their weights."""
        weights, bias = stack([total.fit(self._shrinkage(total, folds), without=folds) for folds in left_out])
        heads = Heads(shape, len(left_out))
        state = {"weights.0": weights / self.bootstrap.temperature, "biases.0": bias / self.bootstrap.temperature}
        heads.load_state_dict(heads.state_dict() | {name: value.float() for name, value in state.items()})
        return heads.to(self.job.rank.device).eval()

    def _shrinkage(self, total: Moments, left_out: Sequence[int]) -> float:
        regions = total.regions * (1 - len(left_out) / total.folds)
        return max(self.bootstrap.shrinkage, min(1.0, SHRINKAGE_PER_DIMENSION * self.dim / regions))


def halve_folds(folds: int, ways: int) -> np.ndarray:
    """Halve the folds at random in several ways, always the same ones.

    Returns:
        int64 [ways, folds]: head 2 i or 2 i + 1 of the i-th way, which leaves the fold out.
    """
    half = np.arange(folds) % 2
    return np.stack([2 * way + np.random.default_rng(way).permutation(half) for way in range(ways)])

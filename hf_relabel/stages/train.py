"""Train: the labeler on the stored features of the kept regions; no image is read and no backbone runs.

The head is small and its examples are vectors, so one process trains it alone, in plain torch on its own device: the
result cannot depend on the number of processes, and no process group is involved. The order, views and dropout of an
epoch follow from the seed and the epoch's number, so on one type of CPU a training that is interrupted and resumed from
its checkpoint ends with the same head, bit for bit.
"""

import copy
import hashlib
import io
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from hf_relabel.config import TrainConfig
from hf_relabel.errors import LabelerError, StageError, UsageError
from hf_relabel.labeling.examples import Examples, gather_examples
from hf_relabel.labeling.labeler import Head, HeadShape, Labeler, is_complete, read_config
from hf_relabel.run.job import Job
from hf_relabel.run.progress import progress_bar
from hf_relabel.run.store import Fingerprint, atomic_open, differences

STAGE = "labeler"

ALGORITHM = 1
"""Raise it when a change of the code changes the trained head."""

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SECONDS = 30.0

ROWS_AT_ONCE = 2048
"""Regions read together where no gradient is needed."""


def run(job: Job) -> dict[str, Any]:
    """Train the labeler, or wait for the process that does; returns the training record of its `config.json`."""
    proposals, manifest = job.finished("proposals", "propose")
    scores, scored = job.finished("scores", "score", proposals=proposals.fingerprint.digest)
    fingerprint = Fingerprint(
        {
            "algorithm": ALGORITHM,
            **job.settings("train"),
            "score": {"merge": job.config.score.merge},
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
        job.accepted()
        examples = gather_examples(job.shards, proposals, scores, folder, job.config)
        head, result = Trainer(examples, len(class_names), fingerprint, job).fit(folder / CHECKPOINT)
        upstream = {"scores": {"inputs": scored["inputs"], "counters": scored["counters"]}}
        training = {"digest": fingerprint.digest, "inputs": fingerprint.inputs, "upstream": upstream, **result}
        Labeler(head, class_names, manifest["inputs"]["backbone"], training).save(folder)
        (folder / CHECKPOINT).unlink(missing_ok=True)
        return training

    return job.once(folder, f"the labeler in {folder}", find, make)


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


@dataclass
class Progress:
    """The state of a training: epochs done, the best of them and its head, and the metrics of every epoch."""

    epoch: int
    best: dict[str, torch.Tensor]
    best_epoch: int
    history: list[dict[str, float]]


class Trainer:
    """Fits a head to examples."""

    def __init__(self, examples: Examples, classes: int, fingerprint: Fingerprint, job: Job):
        self.examples = examples
        self.config: TrainConfig = job.config.train
        self.seed = job.config.run.seed
        self.rank = job.rank
        self.digest = fingerprint.digest
        self.device = job.rank.device
        if self.config.mixed_precision == "fp16" and self.device.type == "cpu":
            raise UsageError("train.mixed_precision: fp16 needs a GPU; use bf16 or no")
        self.train_rows = np.flatnonzero(~examples.held_out)
        self.val_rows = np.flatnonzero(examples.held_out)
        if not len(self.train_rows):
            raise StageError("train.val_fraction: all kept regions belong to held-out images; lower it")
        torch.manual_seed(self.seed)
        self.head = Head(HeadShape.of(self.config, examples.features.shape[-1], classes))
        if self.config.standardize:
            self.head.standardize(*_moments(examples, self.train_rows))
        self.head.to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.head.parameters(), self.config.lr, weight_decay=self.config.weight_decay
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.config.mixed_precision == "fp16")

    def fit(self, checkpoint: Path) -> tuple[Head, dict[str, Any]]:
        """Train to the end, from this training's checkpoint if there is one; returns the best head and a record."""
        progress = self._resume(checkpoint) or Progress(0, {}, -1, [])
        saved = time.monotonic()
        with progress_bar(self.config.epochs, "labeler", "epochs", self.rank) as bar:
            bar.skip(progress.epoch)
            while progress.epoch < self.config.epochs:
                self._train_epoch(progress.epoch)
                progress.history.append(self._evaluate())
                if self._is_best(progress.history):
                    progress.best = copy.deepcopy(self._state())
                    progress.best_epoch = progress.epoch
                progress.epoch += 1
                bar.note(**progress.history[-1])
                bar.update()
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self._save(checkpoint, progress)
                    saved = time.monotonic()
        head = Head(self.head.shape)
        head.load_state_dict(progress.best)
        return head.eval(), {
            "regions": len(self.train_rows),
            "held_out_regions": len(self.val_rows),
            "best_epoch": progress.best_epoch,
            "history": progress.history,
        }

    def _train_epoch(self, epoch: int) -> None:
        rng = np.random.default_rng([self.seed, epoch])
        torch.manual_seed(self.seed * 1_000_003 + epoch)
        rows = rng.permutation(self.train_rows)
        views = self.examples.features.shape[1] - 1
        # The first view has all patches; the others, if there are any, have patches dropped for training.
        view_of_row = rng.integers(1, views + 1, len(rows)) if views else np.zeros(len(rows), np.int64)
        self.head.train()
        for start in range(0, len(rows), self.config.batch_size):
            batch = rows[start : start + self.config.batch_size]
            features, targets = self._batch(batch, view_of_row[start : start + self.config.batch_size])
            with self._autocast():
                loss = functional.cross_entropy(self.head(features), targets)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()

    def _autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.config.mixed_precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.config.mixed_precision != "no")

    def _batch(self, rows: np.ndarray, views: np.ndarray | int) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.from_numpy(self.examples.take(rows, views)).to(self.device).float()
        return features, torch.from_numpy(self.examples.targets[rows]).to(self.device)

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        """Loss and top-1 accuracy on the held-out regions; without any, on the training regions."""
        rows = self.val_rows if len(self.val_rows) else self.train_rows
        self.head.eval()
        loss, right = 0.0, 0
        for start in range(0, len(rows), ROWS_AT_ONCE):
            features, targets = self._batch(rows[start : start + ROWS_AT_ONCE], 0)
            with self._autocast():
                logits = self.head(features)
            logits = logits.float()
            loss += float(functional.cross_entropy(logits, targets, reduction="sum"))
            right += int((logits.argmax(dim=1) == targets).sum())
        return {"loss": loss / len(rows), "top1": right / len(rows)}

    @staticmethod
    def _is_best(history: list[dict[str, float]]) -> bool:
        """Whether the last epoch is better than all before, by top-1 and then by loss; the earlier one wins a tie."""
        keys = [(measures["top1"], -measures["loss"]) for measures in history]
        return all(keys[-1] > key for key in keys[:-1])

    def _state(self) -> dict[str, torch.Tensor]:
        return {key: value.cpu() for key, value in self.head.state_dict().items()}

    def _save(self, path: Path, progress: Progress) -> None:
        state = {
            "digest": self.digest,
            "model": self._state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(progress),
        }
        content = io.BytesIO()  # a full disk is an OSError of ours, not an error from inside torch's writer
        torch.save(state, content)
        with atomic_open(path) as file:
            file.write(hashlib.sha256(content.getbuffer()).digest())
            file.write(content.getbuffer())

    def _resume(self, path: Path) -> Progress | None:
        if not path.exists():
            return None
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:  # damaged: train from the beginning
            return None
        state = torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
        if state["digest"] != self.digest:
            return None
        self.head.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        return Progress(**state["progress"])


def _moments(examples: Examples, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the first view of `rows`, each float32 [dim], in bounded memory."""
    count = 0
    mean = squares = np.zeros(examples.features.shape[-1])
    for start in range(0, len(rows), ROWS_AT_ONCE):
        chunk = examples.take(rows[start : start + ROWS_AT_ONCE], 0).astype(np.float64)
        count += len(chunk)
        mean = mean + chunk.sum(axis=0)
        squares = squares + (chunk**2).sum(axis=0)
    mean = mean / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()

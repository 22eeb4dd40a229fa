"""Train: the labeler on the stored features of the kept regions; no image is read and no backbone runs.

The head is small and its examples are vectors, so the main process trains it alone: the result cannot depend on how
many processes there are. An epoch's order, views and dropout follow from the seed and its number, so that a training
interrupted and taken up again from its checkpoint ends in the same head.
"""

import copy
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional

from hf_relabel.config import TrainConfig
from hf_relabel.errors import StageError
from hf_relabel.labeling.examples import FEATURES, Examples, gather_examples
from hf_relabel.labeling.labeler import CONFIG, Head, HeadShape, Labeler
from hf_relabel.run.job import Job
from hf_relabel.run.progress import progress_bar, wait_for
from hf_relabel.run.store import Fingerprint, atomic_open, differences, make_folder, read_json

STAGE = "labeler"
CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SECONDS = 30.0

ROWS_AT_ONCE = 2048
"""Regions read together where no gradient is needed."""


def run(job: Job) -> dict[str, Any]:
    """Train the labeler; returns what its `config.json` says of the training."""
    proposals, manifest = job.finished("proposals", "propose")
    scores, _ = job.finished("scores", "score")
    fingerprint = Fingerprint(
        {
            **job.settings("train"),
            "score": {"merge": job.config.score.merge},
            "run": {"seed": job.config.run.seed},
            "scores": scores.fingerprint.digest,
        }
    )
    folder = job.stage_folder(STAGE)

    def finished() -> dict[str, Any] | None:
        stored = read_json(folder / CONFIG)
        return stored["training"] if stored and stored["training"]["digest"] == fingerprint.digest else None

    if (training := finished()) is not None:
        return training
    if not job.rank.is_main:
        return wait_for(finished)
    make_folder(folder)
    _refuse_other_work(folder, fingerprint, job.config.run.overwrite)
    job.accepted()
    examples = gather_examples(job.shards, proposals, scores, folder, job.config)
    trainer = Trainer(examples, len(job.source.class_names), fingerprint, job)
    head, result = trainer.fit(folder / CHECKPOINT)
    training = {"digest": fingerprint.digest, "inputs": fingerprint.inputs, **result}
    Labeler(head, job.source.class_names, manifest["inputs"]["backbone"], training).save(folder)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    (folder / FEATURES).unlink()
    return training


def _refuse_other_work(folder: Path, fingerprint: Fingerprint, overwrite: bool) -> None:
    stored = read_json(folder / CONFIG)
    if stored is None or overwrite:
        return
    changed = differences(stored["training"]["inputs"], fingerprint.inputs)
    raise StageError(
        f"{folder}: holds a labeler made with another configuration ({'; '.join(changed[:3])}); "
        "choose another --run.dir, or redo it with --run.overwrite true"
    )


@dataclass
class Progress:
    """How far a training has come: epochs done, the best of them and its head, every epoch's measures."""

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
        self.accelerator = Accelerator(mixed_precision=self.config.mixed_precision)
        self.train_rows = np.flatnonzero(~examples.held_out)
        self.val_rows = np.flatnonzero(examples.held_out)
        if not len(self.train_rows):
            raise StageError("train.val_fraction: all kept regions belong to held-out images; lower it")
        torch.manual_seed(self.seed)
        self.head = Head(HeadShape.of(self.config, examples.features.shape[-1], classes))
        if self.config.standardize:
            self.head.standardize(*_moments(examples, self.train_rows))
        optimizer = torch.optim.AdamW(self.head.parameters(), self.config.lr, weight_decay=self.config.weight_decay)
        self.model, self.optimizer = self.accelerator.prepare(self.head, optimizer)

    def fit(self, checkpoint: Path) -> tuple[Head, dict[str, Any]]:
        """Train to the end, from the checkpoint if it is this training's; returns the best head and a record."""
        progress = self._resume(checkpoint) or Progress(0, {}, -1, [])
        saved = time.monotonic()
        with progress_bar(self.config.epochs, "labeler", "epochs", self.rank) as bar:
            bar.update(progress.epoch)
            while progress.epoch < self.config.epochs:
                self._train_epoch(progress.epoch)
                progress.history.append(self._evaluate())
                if self._is_best(progress.history):
                    progress.best = copy.deepcopy(self._state())
                    progress.best_epoch = progress.epoch
                progress.epoch += 1
                bar.update()
                bar.set_postfix(progress.history[-1], refresh=False)
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
        # The first view has all patches; the others, where there are any, are what patch dropout trains on.
        view_of_row = rng.integers(1, views + 1, len(rows)) if views else np.zeros(len(rows), np.int64)
        self.model.train()
        for start in range(0, len(rows), self.config.batch_size):
            batch = rows[start : start + self.config.batch_size]
            features, targets = self._batch(batch, view_of_row[start : start + self.config.batch_size])
            with self.accelerator.autocast():
                loss = functional.cross_entropy(self.model(features), targets)
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def _batch(self, rows: np.ndarray, views: np.ndarray | int) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.accelerator.device
        features = torch.from_numpy(self.examples.take(rows, views)).to(device).float()
        return features, torch.from_numpy(self.examples.targets[rows]).to(device)

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        """Loss and top-1 on the held-out regions; where there are none, on the training regions."""
        rows = self.val_rows if len(self.val_rows) else self.train_rows
        self.model.eval()
        loss, right = 0.0, 0
        for start in range(0, len(rows), ROWS_AT_ONCE):
            features, targets = self._batch(rows[start : start + ROWS_AT_ONCE], 0)
            logits = self.model(features).float()
            loss += float(functional.cross_entropy(logits, targets, reduction="sum"))
            right += int((logits.argmax(dim=1) == targets).sum())
        return {"loss": loss / len(rows), "top1": right / len(rows)}

    @staticmethod
    def _is_best(history: list[dict[str, float]]) -> bool:
        """Whether the last epoch beats all before: by top-1, then by loss; the earlier one wins a draw."""
        keys = [(measures["top1"], -measures["loss"]) for measures in history]
        return all(keys[-1] > key for key in keys[:-1])

    def _state(self) -> dict[str, torch.Tensor]:
        return {key: value.cpu() for key, value in self.accelerator.unwrap_model(self.model).state_dict().items()}

    def _save(self, path: Path, progress: Progress) -> None:
        state = {
            "digest": self.digest,
            "model": self._state(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(progress),
        }
        with atomic_open(path) as file:
            torch.save(state, file)

    def _resume(self, path: Path) -> Progress | None:
        if not path.exists():
            return None
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["digest"] != self.digest:
            return None
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        return Progress(**state["progress"])


def _moments(examples: Examples, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the full-pooled features of `rows`, each float32 [dim], in bounded memory."""
    count, mean, squares = 0, 0.0, 0.0
    for start in range(0, len(rows), ROWS_AT_ONCE):
        chunk = examples.take(rows[start : start + ROWS_AT_ONCE], 0).astype(np.float64)
        count += len(chunk)
        mean = mean + chunk.sum(axis=0)
        squares = squares + (chunk**2).sum(axis=0)
    mean = mean / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()

"""Train heads by gradient descent: AdamW on cross-entropy, all heads in one pass (arXiv 2603.05729, section 3).

The order, views and dropout of an epoch follow from the seed and the epoch's number, so on one type of CPU a training
that is interrupted and resumed from its checkpoint ends with the same heads, bit for bit.
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
from hf_relabel.errors import StageError, UsageError
from hf_relabel.labeling.examples import Examples
from hf_relabel.labeling.labeler import Heads, HeadShape
from hf_relabel.run.progress import progress_bar
from hf_relabel.run.ranks import Rank
from hf_relabel.run.store import atomic_open

CHECKPOINT_SECONDS = 30.0

ROWS_AT_ONCE = 2048
"""Regions read together where no gradient is needed."""


@dataclass
class Progress:
    """The state of a training.

    Args:
        epoch: Epochs done.
        best: The best state of each head so far; the first dimension of every weight is the head.
        best_epochs: The epoch of that state, by head.
        best_metrics: Top-1 accuracy and negative loss of that state, by head.
        history: Metrics of the first head after every epoch.
    """

    epoch: int
    best: dict[str, torch.Tensor]
    best_epochs: list[int]
    best_metrics: list[list[float]]
    history: list[dict[str, float]]


class GradientTrainer:
    """Fits heads to examples: the first to all of them, head k + 1 to those outside fold k."""

    def __init__(self, examples: Examples, shape: HeadShape, heads: int, config: TrainConfig, seed: int, rank: Rank):
        self.examples = examples
        self.config = config
        self.seed = seed
        self.rank = rank
        self.device = rank.device
        if config.mixed_precision == "fp16" and self.device.type == "cpu":
            raise UsageError("train.mixed_precision: fp16 needs a GPU; use bf16 or no")
        held_out = examples.held_out[examples.order]
        self.train_rows, self.val_rows = examples.order[~held_out], examples.order[held_out]
        if not len(self.train_rows):
            raise StageError("train.val_fraction: all kept regions belong to held-out images; lower it")
        torch.manual_seed(seed)
        self.heads = Heads(shape, heads)
        can_judge = len(self.val_rows) > 0 and bool(self._sees(self.val_rows).any(dim=1).all())
        self.judged_rows = self.val_rows if can_judge else self.train_rows
        if config.standardize:
            self.heads.standardize(*_moments(examples, self.train_rows))
        self.heads.to(self.device)
        self.optimizer = torch.optim.AdamW(self.heads.parameters(), config.lr, weight_decay=config.weight_decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.mixed_precision == "fp16")

    def fit(self, checkpoint: Path, digest: str) -> tuple[Heads, dict[str, Any]]:
        """Train to the end.

        Args:
            checkpoint: File of the training's state, which it resumes from if it has this digest.
            digest: Fingerprint of the training.

        Returns:
            The heads, each as of its best epoch on the validation split, and a record of the training.
        """
        progress = self._resume(checkpoint, digest) or Progress(0, {}, [-1] * self.heads.count, [], [])
        saved = time.monotonic()
        with progress_bar(self.config.epochs, "labeler", "epochs", self.rank) as bar:
            bar.skip(progress.epoch)
            while progress.epoch < self.config.epochs:
                self._train_epoch(progress.epoch)
                self._note(progress, *self._evaluate())
                progress.epoch += 1
                bar.note(**progress.history[-1])
                bar.update()
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self._save(checkpoint, digest, progress)
                    saved = time.monotonic()
        heads = Heads(self.heads.shape, self.heads.count)
        heads.load_state_dict(progress.best)
        return heads.eval(), {
            "regions": len(self.train_rows),
            "held_out_regions": len(self.val_rows),
            "best_epoch": progress.best_epochs[0],
            "history": progress.history,
        }

    def _train_epoch(self, epoch: int) -> None:
        rng = np.random.default_rng([self.seed, epoch])
        torch.manual_seed(self.seed * 1_000_003 + epoch)
        rows = rng.permutation(self.train_rows)
        views = self.examples.features.shape[1] - 1
        # The first view has all patches; the others, if there are any, have patches dropped for training.
        view_of_row = rng.integers(1, views + 1, len(rows)) if views else np.zeros(len(rows), np.int64)
        self.heads.train()
        for start in range(0, len(rows), self.config.batch_size):
            batch = rows[start : start + self.config.batch_size]
            features, targets = self._batch(batch, view_of_row[start : start + self.config.batch_size])
            sees = self._sees(batch)
            with self._autocast():
                logits = self.heads(features)
            losses = _cross_entropy(logits, targets) * sees
            # Each head has its own mean, so the heads train as they would alone.
            loss = (losses.sum(dim=1) / sees.sum(dim=1).clamp(min=1)).sum()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()

    def _sees(self, rows: np.ndarray) -> torch.Tensor:
        """Which heads are trained and judged on which rows, float32 [heads, n]: the first on all."""
        heads = np.arange(self.heads.count)[:, None]
        sees = (heads == 0) | (heads != self.examples.fold[rows] + 1)
        return torch.from_numpy(sees).to(self.device).float()

    def _autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.config.mixed_precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.config.mixed_precision != "no")

    def _batch(self, rows: np.ndarray, views: np.ndarray | int) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.from_numpy(self.examples.take(rows, views)).to(self.device).float()
        return features, torch.from_numpy(self.examples.targets[rows]).to(self.device)

    @torch.no_grad()
    def _evaluate(self) -> tuple[list[float], list[float]]:
        """Top-1 accuracy and loss of each head on the held-out regions; without any, on the training regions.

        The choice of the best epoch is part of the training, so a head is not judged on the fold that it leaves out.
        """
        rows = self.judged_rows
        self.heads.eval()
        loss = torch.zeros(self.heads.count, dtype=torch.float64, device=self.device)
        right, count = torch.zeros_like(loss), torch.zeros_like(loss)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            batch = rows[start : start + ROWS_AT_ONCE]
            features, targets = self._batch(batch, 0)
            sees = self._sees(batch)
            with self._autocast():
                logits = self.heads(features)
            loss += (_cross_entropy(logits, targets) * sees).double().sum(dim=1)
            right += ((logits.argmax(dim=2) == targets) * sees).double().sum(dim=1)
            count += sees.double().sum(dim=1)
        count = count.clamp(min=1)
        return (right / count).tolist(), (loss / count).tolist()

    def _note(self, progress: Progress, top1: list[float], loss: list[float]) -> None:
        """Keep the state of each head that is better than all before, by top-1 and then by loss."""
        progress.history.append({"loss": loss[0], "top1": top1[0]})
        state = {key: value.cpu() for key, value in self.heads.state_dict().items()}
        metrics = [[right, -error] for right, error in zip(top1, loss, strict=True)]
        if not progress.best:
            progress.best, progress.best_metrics = copy.deepcopy(state), metrics
            progress.best_epochs = [progress.epoch] * self.heads.count
            return
        for head, now in enumerate(metrics):
            if now > progress.best_metrics[head]:
                progress.best_metrics[head], progress.best_epochs[head] = now, progress.epoch
                for name, value in self.heads.named_parameters():
                    progress.best[name][head] = value[head].detach().cpu()

    def _save(self, path: Path, digest: str, progress: Progress) -> None:
        state = {
            "digest": digest,
            "model": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(progress),
        }
        content = io.BytesIO()  # a full disk is an OSError of ours, not an error from inside torch's writer
        torch.save(state, content)
        with atomic_open(path) as file:
            file.write(hashlib.sha256(content.getbuffer()).digest())
            file.write(content.getbuffer())

    def _resume(self, path: Path, digest: str) -> Progress | None:
        if not path.exists():
            return None
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:  # damaged: train from the beginning
            return None
        state = torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
        if state["digest"] != digest:
            return None
        self.heads.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        return Progress(**state["progress"])


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each head and row, float32 [heads, n], from logits [heads, n, outputs] and targets [n]."""
    heads = len(logits)
    losses = functional.cross_entropy(logits.float().flatten(0, 1), targets.repeat(heads), reduction="none")
    return losses.view(heads, -1)


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
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()

"""The training loop, with accelerate: cosine schedule, moving average of the weights, validation, checkpoints."""

import copy
import math
import shutil
import sys
import time
from collections.abc import Sized
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from hf_relabel.sources.loader import killed_workers
from hf_relabel.training.augment import mix_batch
from hf_relabel.training.config import TrainingConfig
from hf_relabel.training.data import EpochSampler, batches, make_loader
from hf_relabel.training.losses import make_loss
from hf_relabel.training.validation import SELECTED_BY, Best, Validator

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints in the output folder."""

_TIMED_STEPS = (2, 5)
"""The steps between which the time is measured; the first ones are slower."""


class MovingAverage:
    """Exponential moving average of a model's weights; buffers, such as BatchNorm statistics, are copied.

    The decay at step t is min(decay, (1 + t) / (10 + t)), so that the initial weights soon lose their influence.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._decay = decay
        self._steps = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the weights after a step to the average."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        for average, current in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(current, 1 - decay)
        for kept, new in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(new)

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {"model": self.model.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.model.load_state_dict(state["model"])
        self._steps = state["steps"]


class _History:
    """Loss and learning rate of each epoch so far; part of the checkpoints."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs = state["epochs"]


def learning_rate(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate at a step, in [0, 1]: linear warmup, then a half cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Make the optimizer from the settings; biases, norms and other vectors have no weight decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.lr)


def train(
    model: nn.Module,
    items: Dataset,
    config: TrainingConfig,
    accelerator: Accelerator,
    validator: Validator | None = None,
    class_weights: torch.Tensor | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train a classifier.

    Args:
        model: Maps `pixel_values` [B, 3, S, S] to an output with `logits` [B, C].
        items: Pairs (pixels, target) by number, with a length, like `data.AugmentedImages`.
        config: The settings; checkpoints are written below `config.out`.
        accelerator: Provides device, processes and precision.
        validator: Measures the model, or its moving average, after every epoch.
        class_weights: Weight of each class in the loss, float [C].

    Returns:
        The trained model, or its moving average if the settings ask for one, with the weights of the best epoch if they
        ask for that; and the mean loss, learning rate and validation metrics of each epoch.
    """
    count = len(cast(Sized, items))
    sampler = EpochSampler(count, config.seed)
    loader = make_loader(
        items,
        config.batch_size,
        config.workers,
        sampler=sampler,
        persistent_workers=config.workers > 0,
        drop_last=count >= config.batch_size * accelerator.num_processes,
        pin_memory=accelerator.device.type == "cuda",
    )
    optimizer = make_optimizer(model, config)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    average = MovingAverage(accelerator.unwrap_model(model), config.ema) if config.ema else None
    history = _History()
    best = Best() if validator is not None and config.keep == "best" else None
    accelerator.register_for_checkpointing(history, *filter(None, (average, best)))
    steps_per_epoch = math.ceil(len(loader) / config.accumulation)
    steps, warmup = config.epochs * steps_per_epoch, round(config.warmup_epochs * steps_per_epoch)
    loss_of = make_loss(config, class_weights)
    timer = _Timer(steps_per_epoch) if accelerator.is_main_process else None
    first = _resume(accelerator, config)
    step = first * steps_per_epoch
    bar = tqdm(total=steps, initial=step, desc="train", unit=" steps", disable=not accelerator.is_local_main_process)
    with bar, killed_workers("--workers"):
        for epoch in range(first, config.epochs):
            _to_training(model)
            sampler.epoch = epoch
            losses = []
            for batch, (pixels, targets) in enumerate(batches(loader)):
                rng = np.random.default_rng((config.seed, 3, epoch, batch, accelerator.process_index))
                pixels, targets = mix_batch(pixels, targets, rng, config.mixup, config.cutmix)
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * learning_rate(step, steps, warmup)
                with accelerator.accumulate(model):
                    with accelerator.autocast():
                        logits = model(pixel_values=pixels).logits
                    loss = loss_of(logits.float(), targets)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients and config.clip_norm:
                        accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                losses.append(loss.detach())
                if accelerator.sync_gradients:
                    step += 1
                    bar.update()
                    if average:
                        average.update(accelerator.unwrap_model(model))
                    if timer is not None and (estimate := timer.step()):
                        bar.write(estimate, file=sys.stderr)
            mean_loss = float(accelerator.reduce(torch.stack(losses).mean(), "mean"))
            row = {"epoch": epoch + 1, "loss": mean_loss, "lr": optimizer.param_groups[0]["lr"]}
            if validator is not None:
                current = average.model if average else accelerator.unwrap_model(model)
                row |= validator(current)[0]
                if best is not None:
                    best.offer(epoch + 1, row[SELECTED_BY], current)
                if accelerator.is_main_process:
                    bar.write(_epoch_line(row, config.epochs), file=sys.stderr)
            history.epochs.append(row)
            bar.set_postfix(loss=f"{mean_loss:.4f}")
            accelerator.log({key: value for key, value in row.items() if key != "epoch"}, step=epoch + 1)
            if config.checkpoint_every and ((epoch + 1) % config.checkpoint_every == 0 or epoch + 1 == config.epochs):
                _save_checkpoint(accelerator, Path(config.out) / CHECKPOINTS, epoch + 1)
    trained = average.model if average else accelerator.unwrap_model(model)
    if best is not None and best.weights:
        trained.load_state_dict(best.weights)
    return trained.eval(), history.epochs


class _Timer:
    """Estimates the time of an epoch from the first steps."""

    def __init__(self, steps_per_epoch: int):
        self._steps_per_epoch = steps_per_epoch
        self._step = 0
        self._start = time.perf_counter()

    def step(self) -> str | None:
        """Count a step; returns the estimate once, as a line."""
        self._step += 1
        first, last = min(_TIMED_STEPS[0], self._steps_per_epoch - 1), min(_TIMED_STEPS[1], self._steps_per_epoch)
        if self._step == first:
            self._start = time.perf_counter()
        if self._step != last:
            return None
        seconds = (time.perf_counter() - self._start) / (last - first)
        total = seconds * self._steps_per_epoch
        shown = f"about {total / 60:.0f} min" if total >= 120 else f"about {total:.0f} s"
        shown = shown if total >= 1 else "less than 1 s"
        return f"{shown} per epoch: {self._steps_per_epoch} steps of {seconds:.2g} s"


def _epoch_line(row: dict[str, float], epochs: int) -> str:
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, validation mAP over images "
        f"{row['val_map_over_images']:.4f}, over classes {row['val_map_over_classes']:.4f}, best F1 "
        f"{row['val_f1']:.4f} at threshold {row['val_threshold']:.2f}"
    )


def _to_training(model: nn.Module) -> None:
    """Set training mode except for frozen parts, which use no dropout and keep their statistics."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the last epoch in `folder`; None if there is none."""
    return max(folder.glob("epoch-*"), key=lambda path: int(path.name.removeprefix("epoch-")), default=None)


def _save_checkpoint(accelerator: Accelerator, folder: Path, epoch: int) -> None:
    """Write the state to a temporary folder, rename it, and remove the checkpoints of earlier epochs."""
    partial, final = folder / f".epoch-{epoch:05d}", folder / f"epoch-{epoch:05d}"
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for earlier in folder.glob("epoch-*"):
            if earlier != final:
                shutil.rmtree(earlier)
    accelerator.wait_for_everyone()


def _resume(accelerator: Accelerator, config: TrainingConfig) -> int:
    """Load the last checkpoint if `resume` is set; returns the number of finished epochs."""
    checkpoint = last_checkpoint(Path(config.out) / CHECKPOINTS) if config.resume else None
    if checkpoint is None:
        return 0
    accelerator.load_state(str(checkpoint))
    return int(checkpoint.name.removeprefix("epoch-"))

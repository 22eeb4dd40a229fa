"""Losses on soft multi-label targets. Logits and targets are float [B, C]; a loss is the mean over the images.

Binary losses are summed over the classes of an image (like the original asymmetric loss), so that their magnitude is
comparable to that of cross-entropy.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

from hf_relabel.training.config import TrainingConfig

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_ONE = torch.ones(())


MAX_CLASS_WEIGHT = 10.0
"""Maximum weight of a class, where the mean is 1."""


def make_loss(config: TrainingConfig, class_weights: torch.Tensor | None = None) -> Loss:
    """Make the loss from the settings, including label smoothing; `class_weights` is float [C], or None for 1."""

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        smooth = smoothed(targets, config.floor, config.cap)
        weights = (_ONE if class_weights is None else class_weights).to(logits.device)
        if config.loss == "bce":
            return binary_cross_entropy(logits, smooth, weights)
        if config.loss == "asymmetric":
            return asymmetric(logits, smooth, config.gamma_pos, config.gamma_neg, config.clip, weights)
        return cross_entropy(logits, smooth, weights)

    return loss


def balanced_weights(totals: torch.Tensor) -> torch.Tensor:
    """Weight of each class, float [C], by one over its number of images, float [C]; mean 1 over the present classes.

    A weight above `MAX_CLASS_WEIGHT` is cut; a class without images has weight 1.
    """
    present = totals > 0
    if not present.any():
        return torch.ones_like(totals)
    weights = torch.where(present, 1 / totals.clamp(min=torch.finfo(totals.dtype).tiny), torch.zeros_like(totals))
    weights = (weights / weights[present].mean()).clamp(max=MAX_CLASS_WEIGHT)
    return torch.where(present, weights, torch.ones_like(weights))


def smoothed(targets: torch.Tensor, floor: float, cap: float) -> torch.Tensor:
    """Map targets from [0, 1] to [floor, cap]: label smoothing for independent classes."""
    return floor + (cap - floor) * targets


def binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor = _ONE) -> torch.Tensor:
    """Binary cross-entropy between the sigmoid of each class and its target, summed over the classes."""
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (weights * losses).sum() / len(logits)


def asymmetric(
    logits: torch.Tensor,
    targets: torch.Tensor,
    gamma_pos: float,
    gamma_neg: float,
    clip: float,
    weights: torch.Tensor = _ONE,
) -> torch.Tensor:
    """Asymmetric loss (Ridnik et al. 2021, equations 4 to 7), linear in soft targets.

    The loss of a present class is -(1 - p)^gamma_pos log p. The loss of an absent class is -q^gamma_neg log(1 - q) with
    q = max(p - clip, 0): easy absent classes have little influence, and those below `clip` have none.
    """
    probability = logits.sigmoid()
    shifted = (probability - clip).clamp(min=0)
    # logsigmoid is finite for extreme logits; log1p(-shifted) is finite because shifted <= 1 - clip, unless clip is 0.
    present = (1 - probability) ** gamma_pos * functional.logsigmoid(logits)
    log_absent = functional.logsigmoid(-logits) if clip == 0 else torch.log1p(-shifted)
    absent = shifted**gamma_neg * log_absent
    return -(weights * (targets * present + (1 - targets) * absent)).sum() / len(logits)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor = _ONE) -> torch.Tensor:
    """Cross-entropy between the softmax and the targets, normalized to a distribution; 0 for all-zero targets."""
    totals = targets.sum(dim=1, keepdim=True)
    distribution = torch.where(totals > 0, targets / totals.clamp(min=torch.finfo(targets.dtype).tiny), targets)
    return -(weights * distribution * functional.log_softmax(logits, dim=1)).sum() / len(logits)

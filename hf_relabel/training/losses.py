"""Losses on soft multi-label targets. Logits and targets are float [B, C]; a loss is the mean over the images.

Binary losses add up the classes of an image (as the asymmetric loss's authors do), so that their size compares with
cross-entropy's.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

from hf_relabel.training.config import TrainingConfig

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def make_loss(config: TrainingConfig) -> Loss:
    """The loss that the settings name, label smoothing included."""

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        smooth = smoothed(targets, config.floor, config.cap)
        if config.loss == "bce":
            return binary_cross_entropy(logits, smooth)
        if config.loss == "asymmetric":
            return asymmetric(logits, smooth, config.gamma_pos, config.gamma_neg, config.clip)
        return cross_entropy(logits, smooth)

    return loss


def smoothed(targets: torch.Tensor, floor: float, cap: float) -> torch.Tensor:
    """Targets moved from [0, 1] to [floor, cap]: label smoothing for classes that are present or absent each."""
    return floor + (cap - floor) * targets


def binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum over the classes of the cross-entropy of each class's sigmoid with its target."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)


def asymmetric(
    logits: torch.Tensor, targets: torch.Tensor, gamma_pos: float, gamma_neg: float, clip: float
) -> torch.Tensor:
    """Asymmetric loss (Ridnik et al. 2021, equations 4 to 7), linear in soft targets.

    A present class costs (1 - p)^gamma_pos log p. An absent one costs q^gamma_neg log(1 - q), where q = max(p - clip,
    0): easy absent classes hardly count, and those below `clip` not at all.
    """
    probability = logits.sigmoid()
    shifted = (probability - clip).clamp(min=0)
    # log p from the logits; 1 - shifted is at least `clip` or so, unless clip is 0
    present = (1 - probability) ** gamma_pos * functional.logsigmoid(logits)
    log_absent = functional.logsigmoid(-logits) if clip == 0 else torch.log1p(-shifted)
    absent = shifted**gamma_neg * log_absent
    return -(targets * present + (1 - targets) * absent).sum() / len(logits)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the softmax with the targets, scaled to a distribution; an image without any costs 0."""
    totals = targets.sum(dim=1, keepdim=True)
    distribution = torch.where(totals > 0, targets / totals.clamp(min=torch.finfo(targets.dtype).tiny), targets)
    return -(distribution * functional.log_softmax(logits, dim=1)).sum() / len(logits)

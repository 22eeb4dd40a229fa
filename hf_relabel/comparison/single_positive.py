"""Multi-label learning of whole images from single positive labels: the alternative without masks.

Two linear classifiers on the frozen features of whole images, each with one sigmoid per class:

- assume negative: binary cross-entropy that takes every label that was not given for a negative one;
- EM + APL (Zhou et al., "Acknowledging the Unknown for Multi-label Learning with Single Positive Labels", ECCV 2022):
  unknown labels maximize the entropy of their prediction, and after some epochs those with the lowest predictions
  gradually become negative, with their own prediction as a soft label.

An image is predicted by a classifier that was not fitted on it.
"""

from typing import Literal

import numpy as np
import torch
from torch import nn

Method = Literal["assume negative", "EM + APL"]

FOLDS = 5

EPOCHS, WARMUP, BATCH, LEARNING_RATE = 25, 5, 16, 1e-3
"""Passes over the images, those before the first pseudo-labels, images per step, and Adam's step size. The paper trains
a whole network for 10 epochs; a linear classifier needs more of them and larger steps."""

ALPHA, BETA, NEGATIVES = 0.1, 0.9, 0.9
"""Weights of the entropy and of the pseudo-labels, and the share of unknown labels that become negative in the end: the
paper's values for COCO."""

_SMALL = 1e-5


def predict_single_positive(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray, classes: int, method: Method, seed: int = 0
) -> np.ndarray:
    """Fit a classifier for each fold on the other folds' images, and predict the fold's images.

    Args:
        features: Features of the whole images, float [N, D].
        labels: The one given label of each image, int64 [N].
        folds: Fold of each image, int64 [N].
        classes: Number of classes C.
        method: How labels that were not given are treated.
        seed: Seed of the order of the images.

    Returns:
        Logits, float64 [N, C].
    """
    x, y = torch.from_numpy(np.asarray(features, np.float32)), torch.from_numpy(np.asarray(labels, np.int64))
    logits = np.zeros((len(x), classes))
    for fold in np.unique(folds):
        inside = torch.from_numpy(folds == fold)
        train = x[~inside]
        mean, std = train.mean(dim=0), train.std(dim=0).clamp(min=1e-6)
        head = _fit((train - mean) / std, y[~inside], classes, method, seed)
        with torch.inference_mode():
            logits[folds == fold] = head((x[inside] - mean) / std).double().numpy()
    return logits


def _fit(x: torch.Tensor, y: torch.Tensor, classes: int, method: Method, seed: int) -> nn.Linear:
    head = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.Adam(head.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    given = nn.functional.one_hot(y, classes).bool()
    soft = torch.full(given.shape, torch.nan)  # pseudo-labels; NaN where there is none
    unknown = (~given).sum(dim=0)
    for epoch in range(EPOCHS):
        for batch in torch.randperm(len(x), generator=generator).split(BATCH):
            probability = head(x[batch]).sigmoid()
            if method == "assume negative":
                loss = nn.functional.binary_cross_entropy(probability, given[batch].float())
            else:
                loss = _em_apl(probability, given[batch], soft[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if method == "EM + APL" and epoch >= WARMUP:
            _add_negatives(head, x, given, soft, (NEGATIVES * unknown / (EPOCHS - WARMUP)).long())
    return head


def _em_apl(probability: torch.Tensor, given: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
    """The loss of a batch, from predictions, given labels and pseudo-labels, each [B, C]."""
    yes, no = -(probability + _SMALL).log(), -(1 - probability + _SMALL).log()
    entropy = probability * yes + (1 - probability) * no
    target = soft.nan_to_num()
    pseudo = BETA * (target * yes + (1 - target) * no)
    return torch.where(given, yes, torch.where(soft.isnan(), -ALPHA * entropy, pseudo)).mean()


@torch.no_grad()
def _add_negatives(
    head: nn.Linear, x: torch.Tensor, given: torch.Tensor, soft: torch.Tensor, counts: torch.Tensor
) -> None:
    """Turn the unknown labels with the lowest predictions of each class into pseudo-labels, in place."""
    probability = head(x).sigmoid()
    candidates = torch.where(given | ~soft.isnan(), torch.inf, probability)
    order = candidates.argsort(dim=0, stable=True)
    for name, count in enumerate(counts.tolist()):
        rows = order[:count, name]
        rows = rows[candidates[rows, name].isfinite()]
        soft[rows, name] = probability[rows, name]

"""Multi-label metrics, including those of ReaL, in NumPy.

Scores are float [N, C] (N images, C classes; higher means more likely); true and predicted label sets are bool [N, C].
Conventions of all metrics:

* An image without a true label has no average precision. `summary.summarize` excludes such images from every metric
  and counts them, like ReaL (Beyer et al. 2020).
* A class without a true label in the images has no average precision and is excluded from means over classes.
* Ties. Top-1 uses the lowest class index among the highest scores. Average precision processes equal scores in one
  step, like scikit-learn, so it does not depend on the order of the classes.
* Empty sets. A precision, recall or F1 with a denominator of 0 is 0; the IoU of two empty sets is 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BLOCK = 4_000_000  # scores per comparison, to limit memory


@dataclass(frozen=True)
class PRF:
    """Precision, recall and F1, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


def multi_hot(labels: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """Convert one list of class indices per image to label sets, bool [N, classes].

    Raises:
        ValueError: A class index is not in [0, classes - 1].
    """
    sets = np.zeros((len(labels), classes), dtype=bool)
    rows = np.repeat(np.arange(len(labels)), [len(image) for image in labels])
    columns = np.array([c for image in labels for c in image], dtype=np.int64)
    if len(columns) and not (columns.min() >= 0 and columns.max() < classes):
        raise ValueError(f"class indices must be from 0 to {classes - 1}, got {columns.min()} to {columns.max()}")
    sets[rows, columns] = True
    return sets


def top1_hits(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Whether the class with the highest score is among the true labels of each image: bool [N]."""
    _check(scores, truth)
    if not len(scores):
        return np.zeros(0, dtype=bool)
    return truth[np.arange(len(truth)), scores.argmax(axis=1)]


def average_precision(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Average precision of the ranking in each row: float64 [N], NaN for a row without a true entry.

    AP is the mean over the true entries of the precision at the rank of the entry, ties included. Rows are images for
    the mAP over images (arXiv 2603.05729); pass transposed matrices for the mAP over classes.
    """
    _check(scores, truth)
    rows, columns = np.nonzero(truth)
    precision = np.empty(len(rows))
    # Counting the scores ahead of each true entry is much faster than sorting if a row has few true entries.
    step = max(1, _BLOCK // max(1, scores.shape[1]))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        ahead = scores[rows[block]] >= scores[rows[block], columns[block]][:, None]
        found = np.count_nonzero(ahead & truth[rows[block]], axis=1)
        precision[block] = found / np.count_nonzero(ahead, axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of a row without a true entry
        return np.bincount(rows, precision, len(scores)) / truth.sum(axis=1)


def ranking(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank each row from the highest score down.

    Returns:
        The column at each rank, and for each rank the last rank with the same score: int64 [N, C] each.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    places = np.arange(scores.shape[1])
    last_of_tie = np.ones(scores.shape, dtype=bool)
    last_of_tie[:, :-1] = ranked[:, :-1] != ranked[:, 1:]
    ends = np.where(last_of_tie, places, scores.shape[1])
    return order, np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]


def map_over_classes(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean average precision over the classes that occur in the truth; NaN if there are none."""
    return mean_of_known(average_precision(scores.T, truth.T))


def map_over_images(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean average precision of the ranked classes over the images with a true label; NaN if there are none."""
    return mean_of_known(average_precision(scores, truth))


def micro(predicted: np.ndarray, truth: np.ndarray) -> PRF:
    """Precision, recall and F1 over all (image, class) pairs."""
    _check(predicted, truth)
    hits, claimed, true = (int(np.count_nonzero(sets)) for sets in (predicted & truth, predicted, truth))
    return prf(hits, claimed, true)


def macro(predicted: np.ndarray, truth: np.ndarray) -> PRF:
    """Mean precision, recall and F1 over the classes; classes that are neither predicted nor true are excluded."""
    _check(predicted, truth)
    return macro_prf((predicted & truth).sum(axis=0), predicted.sum(axis=0), truth.sum(axis=0))


def macro_prf(hits: np.ndarray, claimed: np.ndarray, true: np.ndarray) -> PRF:
    """`macro` from the counts of correct predictions, predictions and true labels per class, [C] each."""
    present = (claimed + true) > 0
    if not present.any():
        return PRF(0.0, 0.0, 0.0)
    hits, claimed, true = hits[present], claimed[present], true[present]
    precision, recall = hits / np.maximum(claimed, 1), hits / np.maximum(true, 1)
    return PRF(float(precision.mean()), float(recall.mean()), float((2 * hits / (claimed + true)).mean()))


def prf(hits: float, claimed: float, true: float) -> PRF:
    """Precision, recall and F1 from the counts of correct predictions, predictions and true labels."""
    precision = float(hits / claimed) if claimed else 0.0
    recall = float(hits / true) if true else 0.0
    return PRF(precision, recall, float(2 * hits / (claimed + true)) if claimed + true else 0.0)


def exact_matches(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Whether the predicted set equals the true set of each image: bool [N]; the mean is the subset accuracy."""
    _check(predicted, truth)
    return (predicted == truth).all(axis=1)


def set_iou(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union (Jaccard index) of the predicted and true set of each image: float64 [N] in [0, 1]."""
    _check(predicted, truth)
    union = (predicted | truth).sum(axis=1)
    return np.where(union > 0, (predicted & truth).sum(axis=1) / np.maximum(union, 1), 1.0)


LABEL_COUNTS = {"1": (1, 1), "2": (2, 2), "3": (3, 3), ">=4": (4, math.inf)}
"""Minimum and maximum number of true labels in each group of images (arXiv 2603.05729, evaluation)."""


@dataclass(frozen=True)
class Group:
    """Metrics of the images with a certain number of true labels; NaN if there are none."""

    images: int
    top1: float
    map_over_images: float


def by_label_count(scores: np.ndarray, truth: np.ndarray) -> dict[str, Group]:
    """Top-1 and mAP over images, for the images with 1, 2, 3, and 4 or more true labels."""
    counts, hits, precisions = truth.sum(axis=1), top1_hits(scores, truth), average_precision(scores, truth)
    groups = {}
    for name, (minimum, maximum) in LABEL_COUNTS.items():
        chosen = (counts >= minimum) & (counts <= maximum)
        groups[name] = Group(
            int(chosen.sum()), mean_of_known(hits[chosen].astype(float)), mean_of_known(precisions[chosen])
        )
    return groups


@dataclass(frozen=True)
class Bin:
    """Predictions with a score in [low, high), or [low, high] for the last bin; the means of an empty bin are NaN."""

    low: float
    high: float
    count: int
    mean_score: float
    hit_rate: float


def reliability(scores: np.ndarray, hits: np.ndarray, bins: int = 10) -> list[Bin]:
    """Reliability table with bins of equal width.

    Args:
        scores: Score of each prediction, float [M] in [0, 1].
        hits: Whether each prediction is correct, bool [M].
        bins: Number of bins.
    """
    if scores.shape != hits.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape} and hits {hits.shape} must have one dimension and equal length")
    if len(scores) and not (scores.min() >= 0 and scores.max() <= 1):
        raise ValueError(f"scores must be from 0 to 1, got {scores.min()} to {scores.max()}")
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, bins - 1)
    table = []
    for place in range(bins):
        inside = places == place
        mean_score, hit_rate = mean_of_known(scores[inside].astype(float)), mean_of_known(hits[inside].astype(float))
        table.append(Bin(float(edges[place]), float(edges[place + 1]), int(inside.sum()), mean_score, hit_rate))
    return table


def expected_calibration_error(table: list[Bin]) -> float:
    """Mean difference between score and hit rate, weighted by bin counts (Naeini et al. 2015); NaN if empty."""
    total = sum(row.count for row in table)
    if not total:
        return math.nan
    return sum(row.count * abs(row.mean_score - row.hit_rate) for row in table if row.count) / total


@dataclass(frozen=True)
class ThresholdCurve:
    """Precision, recall and F1 of the predictions at or above each threshold, highest threshold first: float [T]."""

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    @property
    def best(self) -> int:
        """Index of the highest F1; ties go to the highest threshold."""
        return int(self.f1.argmax())


def threshold_curve(scores: np.ndarray, hits: np.ndarray, positives: int) -> ThresholdCurve:
    """Precision, recall and F1 at every distinct score.

    Args:
        scores: Score of each predicted (image, class) pair, float [M].
        hits: Whether each pair is true, bool [M].
        positives: Number of all true pairs, predicted or not.

    Raises:
        ValueError: There are no predictions, or fewer positives than hits.
    """
    if not len(scores) or positives < np.count_nonzero(hits):
        raise ValueError(f"{len(scores)} predictions with {np.count_nonzero(hits)} hits, {positives} positives")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[:-1] != ranked[1:], True))
    found, claimed = np.cumsum(hits[order])[ends], ends + 1
    recall = found / positives if positives else np.zeros(len(ends))
    return ThresholdCurve(ranked[ends], found / claimed, recall, 2 * found / (claimed + positives))


def _check(values: np.ndarray, truth: np.ndarray) -> None:
    if values.shape != truth.shape or values.ndim != 2 or truth.dtype != bool:
        raise ValueError(f"expected [N, C] and bool [N, C], got {values.shape} and {truth.dtype} {truth.shape}")
    if values.dtype != bool and not np.isfinite(values).all():
        raise ValueError("scores must be finite")


def mean_of_known(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan

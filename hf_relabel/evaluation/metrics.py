"""Multi-label and ReaL metrics, with NumPy alone.

Scores are float [N, C] (N images, C classes; higher is likelier), truth and predicted label sets are bool [N, C].
Conventions, the same everywhere:

* An image without a true label has no average precision. `summary.summarise` leaves such images out of every metric
  and counts them, as ReaL does (Beyer et al. 2020).
* A class without a true label in these images has no average precision and is left out of means over classes.
* Ties. Top-1 takes the lowest class index among the highest scores. Average precision takes equal scores in one step,
  as scikit-learn does, so it depends on no order of the classes.
* Empty sets. A precision, recall or F1 with nothing in its denominator is 0; the IoU of two empty sets is 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BLOCK = 4_000_000  # scores compared at once, to bound memory


@dataclass(frozen=True)
class PRF:
    """Precision, recall and F1, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


def multi_hot(labels: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """Label sets as bool [N, classes] from one list of class indices an image.

    Raises:
        ValueError: A class index outside 0 ... classes - 1.
    """
    sets = np.zeros((len(labels), classes), dtype=bool)
    rows, columns = _pairs(labels, classes)
    sets[rows, columns] = True
    return sets


def score_matrix(labels: Sequence[Sequence[int]], scores: Sequence[Sequence[float]], classes: int) -> np.ndarray:
    """float32 [N, classes] from each image's listed classes and their scores; a class that is not listed has 0.

    Raises:
        ValueError: An image with another number of scores than classes, or an index outside 0 ... classes - 1.
    """
    if len(labels) != len(scores) or any(len(a) != len(b) for a, b in zip(labels, scores, strict=True)):
        raise ValueError("labels and scores differ in length")
    matrix = np.zeros((len(labels), classes), dtype=np.float32)
    rows, columns = _pairs(labels, classes)
    np.maximum.at(matrix, (rows, columns), np.array([s for image in scores for s in image], dtype=np.float32))
    return matrix


def _pairs(labels: Sequence[Sequence[int]], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every listed label, int64 [M] each."""
    rows = np.repeat(np.arange(len(labels)), [len(image) for image in labels])
    columns = np.array([c for image in labels for c in image], dtype=np.int64)
    if len(columns) and not (columns.min() >= 0 and columns.max() < classes):
        raise ValueError(f"class indices must be from 0 to {classes - 1}, got {columns.min()} to {columns.max()}")
    return rows, columns


def top1_hits(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Whether each image's highest-scored class is among its true labels ("in the list"): bool [N]."""
    _check(scores, truth)
    if not len(scores):
        return np.zeros(0, dtype=bool)
    return truth[np.arange(len(truth)), scores.argmax(axis=1)]


def average_precision(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Average precision of each row's ranking: float64 [N], NaN for a row without a true entry.

    AP = sum over the true entries of the precision down to the entry (and all tied with it), divided by their number.
    Rows are images for the mAP over images of arXiv 2603.05729; pass transposed matrices for classes.
    """
    _check(scores, truth)
    rows, columns = np.nonzero(truth)
    precision = np.empty(len(rows))
    # An entry's place is a matter of counting; with few true entries a row, that is much faster than sorting.
    step = max(1, _BLOCK // max(1, scores.shape[1]))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        ahead = scores[rows[block]] >= scores[rows[block], columns[block]][:, None]
        found = np.count_nonzero(ahead & truth[rows[block]], axis=1)
        precision[block] = found / np.count_nonzero(ahead, axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of a row without a true entry
        return np.bincount(rows, precision, len(scores)) / truth.sum(axis=1)


def ranking(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns of each row from the highest score down, and for each place the last place tied with it: int64 [N, C]."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    places = np.arange(scores.shape[1])
    last_of_tie = np.ones(scores.shape, dtype=bool)
    last_of_tie[:, :-1] = ranked[:, :-1] != ranked[:, 1:]
    ends = np.where(last_of_tie, places, scores.shape[1])
    return order, np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]


def map_over_classes(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the classes that occur in the truth of their average precision over the images; NaN for none."""
    return mean_of_known(average_precision(scores.T, truth.T))


def map_over_images(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the images with a true label of the average precision of their ranked classes; NaN for none."""
    return mean_of_known(average_precision(scores, truth))


def micro(predicted: np.ndarray, truth: np.ndarray) -> PRF:
    """Precision, recall and F1 of all (image, class) pairs pooled."""
    _check(predicted, truth)
    hits = np.count_nonzero(predicted & truth)
    return prf(hits, np.count_nonzero(predicted), np.count_nonzero(truth))


def macro(predicted: np.ndarray, truth: np.ndarray) -> PRF:
    """Mean over classes of their precision, recall and F1; classes neither predicted nor true are left out."""
    _check(predicted, truth)
    return macro_prf((predicted & truth).sum(axis=0), predicted.sum(axis=0), truth.sum(axis=0))


def macro_prf(hits: np.ndarray, claimed: np.ndarray, true: np.ndarray) -> PRF:
    """As `macro`, from each class's correct predictions, predictions and true labels, [C] each."""
    present = (claimed + true) > 0
    if not present.any():
        return PRF(0.0, 0.0, 0.0)
    hits, claimed, true = hits[present], claimed[present], true[present]
    precision, recall = hits / np.maximum(claimed, 1), hits / np.maximum(true, 1)
    return PRF(float(precision.mean()), float(recall.mean()), float((2 * hits / (claimed + true)).mean()))


def prf(hits: float, claimed: float, true: float) -> PRF:
    """Precision, recall and F1 from counts: correct predictions, all predictions, all true labels."""
    precision = float(hits / claimed) if claimed else 0.0
    recall = float(hits / true) if true else 0.0
    return PRF(precision, recall, float(2 * hits / (claimed + true)) if claimed + true else 0.0)


def exact_matches(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Whether each image's predicted set is exactly the true set; its mean is the subset accuracy: bool [N]."""
    _check(predicted, truth)
    return (predicted == truth).all(axis=1)


def set_iou(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union (Jaccard index) of each image's predicted and true set: float64 [N], in [0, 1]."""
    _check(predicted, truth)
    union = (predicted | truth).sum(axis=1)
    return np.where(union > 0, (predicted & truth).sum(axis=1) / np.maximum(union, 1), 1.0)


LABEL_COUNTS = {"1": (1, 1), "2": (2, 2), "3": (3, 3), ">=4": (4, math.inf)}
"""The groups of images by their number of true labels, least and most: arXiv 2603.05729, evaluation."""


@dataclass(frozen=True)
class Group:
    """Metrics of the images with a certain number of true labels; NaN where there are none."""

    images: int
    top1: float
    map_over_images: float


def by_label_count(scores: np.ndarray, truth: np.ndarray) -> dict[str, Group]:
    """Top-1 and mAP over images for the images with 1, 2, 3 and 4 or more true labels."""
    counts, hits, precisions = truth.sum(axis=1), top1_hits(scores, truth), average_precision(scores, truth)
    groups = {}
    for name, (least, most) in LABEL_COUNTS.items():
        chosen = (counts >= least) & (counts <= most)
        groups[name] = Group(
            int(chosen.sum()), mean_of_known(hits[chosen].astype(float)), mean_of_known(precisions[chosen])
        )
    return groups


@dataclass(frozen=True)
class Bin:
    """Predictions whose score is in [low, high) (the last bin: [low, high]); means are NaN in an empty bin."""

    low: float
    high: float
    count: int
    mean_score: float
    hit_rate: float


def reliability(scores: np.ndarray, hits: np.ndarray, bins: int = 10) -> list[Bin]:
    """Reliability table of predictions with scores in [0, 1], float [M], and whether each is right, bool [M].

    Bins are of equal width.
    """
    if scores.shape != hits.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape} and hits {hits.shape} must be of one dimension and equal length")
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
    """Mean distance of score and hit rate over the bins, weighted by counts (Naeini et al. 2015); NaN if empty."""
    total = sum(row.count for row in table)
    if not total:
        return math.nan
    return sum(row.count * abs(row.mean_score - row.hit_rate) for row in table if row.count) / total


@dataclass(frozen=True)
class ThresholdCurve:
    """Pooled precision, recall and F1 of the predictions with at least each score, highest first: float [T] each."""

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    @property
    def best(self) -> int:
        """Index of the highest F1; among equals, of the highest threshold."""
        return int(self.f1.argmax())


def threshold_curve(scores: np.ndarray, hits: np.ndarray, positives: int) -> ThresholdCurve:
    """Precision, recall and F1 at every distinct score.

    Args:
        scores: float [M], of the predicted (image, class) pairs.
        hits: bool [M], whether the pair is true.
        positives: True pairs in all, listed or not.

    Raises:
        ValueError: No prediction, or fewer positives than hits.
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
    """Mean of the values that are not NaN; NaN where there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan

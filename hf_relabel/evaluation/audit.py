"""Compares the labels in a release with true labels: precision, recall, what scores are worth, frequent errors."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from hf_relabel.evaluation import metrics
from hf_relabel.release.label_table import LabelTable
from hf_relabel.schema import NO_LABEL

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(21))


@dataclass(frozen=True)
class ThresholdRow:
    """Metrics of the label sets that contain each class with a score of at least `threshold`.

    `map_over_images` ranks the classes of an image by score; classes that are not listed tie for last place.
    """

    threshold: float
    labels_per_image: float
    precision: float
    recall: float
    f1: float
    macro_f1: float
    map_over_images: float
    subset_accuracy: float
    iou: float


@dataclass(frozen=True)
class AddedLabels:
    """The labels other than the original ones, and whether one with score s is true with probability s.

    Args:
        labels: Their number.
        estimated_precision: Their mean score: the share of true ones among them, if scores are probabilities. NaN, as
            the other values, if there are none.
        true_precision: Share of true ones among them.
        ece: Expected calibration error, in [0, 1].
        reliability: Reliability table.
    """

    labels: int
    estimated_precision: float
    true_precision: float
    ece: float
    reliability: list[metrics.Bin]


@dataclass(frozen=True)
class LabelScores:
    """How well `label_score` finds the images with a false original label.

    Args:
        images: Number of images with a label_score.
        false: Number of those whose original label is not true.
        auc: Probability that a true original label has a higher label_score than a false one (area under the ROC
            curve); NaN unless there are both.
    """

    images: int
    false: int
    auc: float


@dataclass(frozen=True)
class BestThreshold:
    """The score threshold with the highest pooled F1."""

    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Agreement:
    """Agreement of the original label with the release and with the truth, as shares of images in [0, 1].

    Args:
        listed: The original label is among the release's labels.
        first: The original label is in the release and no label has a higher score.
        true: The original label is among the true labels.
        true_labels_per_image: Mean number of true labels.
    """

    listed: float
    first: float
    true: float
    true_labels_per_image: float


@dataclass(frozen=True)
class ClassCount:
    """A class, the number of images it was counted in, and the number of those in which it is true."""

    class_name: str
    images: int
    true: int


@dataclass(frozen=True)
class Confusion:
    """The number of images in which the false class `listed` is listed and the true class `missed` is not."""

    missed: str
    listed: str
    images: int


@dataclass(frozen=True)
class Audit:
    """Everything `audit` reports.

    Images without a true label are excluded and counted in `left_out`. Images whose true labels are all classes that
    the release does not have are compared, so that the labels added to them count as false; `other_classes` is their
    number.
    """

    images: int
    left_out: int
    other_classes: int
    thresholds: list[ThresholdRow]
    best: BestThreshold
    added_labels: AddedLabels
    label_scores: LabelScores
    agreement: Agreement
    added: list[ClassCount]
    dropped: list[ClassCount]
    confused: list[Confusion]


def audit(
    table: LabelTable, truth: np.ndarray, known: np.ndarray | None = None, top: int = 10, bins: int = 10
) -> Audit:
    """Compare the labels in a release with the truth.

    Args:
        table: The N images in the release.
        truth: True label sets, bool [N, C], in the order of the table's images.
        known: Images with a true label, bool [N], whether it is one of the C classes or not; by default those with a
            label in `truth`.
        top: Number of classes and confusions to list.
        bins: Number of bins in the reliability table.

    Raises:
        ValueError: No image has a true label, or none of the images with one has a label in the release.
    """
    scores = table.scores
    has_class = np.asarray(truth.any(axis=1))
    known = has_class if known is None else known | has_class
    if not known.any():
        raise ValueError("no image has a true label")
    entries = known[table.rows]
    rows, classes, scores = table.rows[entries], table.classes[entries], scores[entries]
    hits = truth[rows, classes]
    curve = metrics.threshold_curve(scores, hits, int(truth.sum()))
    best = BestThreshold(*(float(a[curve.best]) for a in (curve.thresholds, curve.precision, curve.recall, curve.f1)))
    is_added = classes != table.original[rows]
    return Audit(
        images=int(known.sum()),
        left_out=int((~known).sum()),
        other_classes=int((known & ~has_class).sum()),
        thresholds=_threshold_rows(rows, classes, scores, truth, known),
        best=best,
        added_labels=_added_labels(scores[is_added], hits[is_added], bins),
        label_scores=_label_scores(table, truth, known),
        agreement=_agreement(table, table.scores, truth, known),
        added=_most_frequent(classes[is_added], hits[is_added], table.class_names, top),
        dropped=_dropped(table, truth, known, top),
        confused=_confused(rows, classes, truth, table.class_names, top),
    )


def _threshold_rows(
    rows: np.ndarray, classes: np.ndarray, scores: np.ndarray, truth: np.ndarray, known: np.ndarray
) -> list[ThresholdRow]:
    found = []
    listed = np.zeros(truth.shape, dtype=bool)
    true = truth[known]
    for threshold in THRESHOLDS:
        kept = scores >= np.float32(threshold)
        listed[:] = False
        listed[rows[kept], classes[kept]] = True
        sets = listed[known]
        pooled, mean = metrics.micro(sets, true), metrics.macro(sets, true)
        precisions = listed_average_precision(rows[kept], classes[kept], scores[kept], truth)
        found.append(
            ThresholdRow(
                threshold=threshold,
                labels_per_image=float(sets.sum() / len(sets)),
                precision=pooled.precision,
                recall=pooled.recall,
                f1=pooled.f1,
                macro_f1=mean.f1,
                map_over_images=metrics.mean_of_known(precisions),
                subset_accuracy=float(metrics.exact_matches(sets, true).mean()),
                iou=float(metrics.set_iou(sets, true).mean()),
            )
        )
    return found


def listed_average_precision(
    rows: np.ndarray, classes: np.ndarray, scores: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    """Average precision of each image; the classes that are not listed tie for last place.

    This equals `metrics.average_precision` on a matrix with 0 for unlisted classes, but is much faster.

    Args:
        rows: Image of each listed class, int64 [M], ascending.
        classes: Index of each listed class, int [M].
        scores: Score of each listed class, float [M], at least 0.
        truth: True label sets, bool [N, C].

    Returns:
        float64 [N]; NaN for an image without a true label.
    """
    images, all_classes = truth.shape
    counts = np.bincount(rows, minlength=images)
    places = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    narrow_scores = np.full((images, max(1, counts.max(initial=0))), -1.0)
    narrow_hits = np.zeros(narrow_scores.shape, dtype=bool)
    narrow_scores[rows, places] = scores
    narrow_hits[rows, places] = truth[rows, classes]
    order, ends = metrics.ranking(narrow_scores)
    ranked = np.take_along_axis(narrow_hits, order, axis=1)
    precision = np.take_along_axis(np.cumsum(ranked, axis=1) / np.arange(1, ranked.shape[1] + 1), ends, axis=1)
    true = truth.sum(axis=1)
    missing = true - narrow_hits.sum(axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an image without a true label
        return ((ranked * precision).sum(axis=1) + missing * true / all_classes) / true


def _added_labels(scores: np.ndarray, hits: np.ndarray, bins: int) -> AddedLabels:
    table = metrics.reliability(scores, hits, bins)
    return AddedLabels(
        labels=len(scores),
        estimated_precision=metrics.mean_of_known(scores.astype(float)),
        true_precision=metrics.mean_of_known(hits.astype(float)),
        ece=metrics.expected_calibration_error(table),
        reliability=table,
    )


def _label_scores(table: LabelTable, truth: np.ndarray, known: np.ndarray) -> LabelScores:
    images = np.flatnonzero(known & ~np.isnan(table.label_scores))
    is_true = truth[images, table.original[images]]
    has_both = bool(is_true.any() and not is_true.all())
    return LabelScores(
        images=len(images),
        false=int(np.count_nonzero(~is_true)),
        auc=float(roc_auc_score(is_true, table.label_scores[images])) if has_both else math.nan,
    )


def _agreement(table: LabelTable, scores: np.ndarray, truth: np.ndarray, known: np.ndarray) -> Agreement:
    is_original = table.classes == table.original[table.rows]
    listed = np.zeros(len(table), dtype=bool)
    listed[table.rows[is_original]] = True
    highest = np.full(len(table), -np.inf)
    np.maximum.at(highest, table.rows, scores)
    first = np.zeros(len(table), dtype=bool)
    first[table.rows[is_original & (scores == highest[table.rows])]] = True
    labeled = np.flatnonzero(known & (table.original != NO_LABEL))
    return Agreement(
        listed=metrics.mean_of_known(listed[labeled].astype(float)),
        first=metrics.mean_of_known(first[labeled].astype(float)),
        true=metrics.mean_of_known(truth[labeled, table.original[labeled]].astype(float)),
        true_labels_per_image=float(truth[known].sum(axis=1).mean()),
    )


def _most_frequent(classes: np.ndarray, true: np.ndarray, class_names: list[str], top: int) -> list[ClassCount]:
    """The classes with the most entries; ties are ordered by class index."""
    counts = np.bincount(classes, minlength=len(class_names))
    right = np.bincount(classes[true], minlength=len(class_names))
    order = np.argsort(-counts, kind="stable")[:top]
    return [ClassCount(class_names[c], int(counts[c]), int(right[c])) for c in order if counts[c]]


def _dropped(table: LabelTable, truth: np.ndarray, known: np.ndarray, top: int) -> list[ClassCount]:
    """Original labels that are not in the release; `true` counts those dropped by mistake."""
    kept = np.zeros(len(table), dtype=bool)
    kept[table.rows[table.classes == table.original[table.rows]]] = True
    images = np.flatnonzero(known & ~kept & (table.original != NO_LABEL))
    original = table.original[images]
    return _most_frequent(original, truth[images, original], table.class_names, top)


def _confused(
    rows: np.ndarray, classes: np.ndarray, truth: np.ndarray, class_names: list[str], top: int
) -> list[Confusion]:
    listed = np.zeros(truth.shape, dtype=bool)
    listed[rows, classes] = True
    false, missed = listed & ~truth, truth & ~listed
    pairs: Counter[tuple[int, int]] = Counter()
    for image in np.flatnonzero(false.any(axis=1) & missed.any(axis=1)):
        absent, wrong = np.flatnonzero(missed[image]).tolist(), np.flatnonzero(false[image]).tolist()
        pairs.update((m, f) for m in absent for f in wrong)
    frequent = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:top]
    return [Confusion(class_names[m], class_names[f], count) for (m, f), count in frequent]

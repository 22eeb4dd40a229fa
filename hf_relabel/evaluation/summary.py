"""A model's metrics on one truth, with bootstrap intervals: what `evaluate`, `transfer` and the bench report."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hf_relabel.evaluation import metrics
from hf_relabel.evaluation.metrics import Group

CLASS_WORK = 2_000_000_000
"""Scores that the bootstrap of metrics over classes may visit; it lowers its resamples to keep within."""

_BLOCK = 4_000_000  # scores ranked at once, to bound memory


@dataclass(frozen=True)
class Estimate:
    """A metric's value and its 95% interval, all in the metric's own units."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


@dataclass(frozen=True)
class Summary:
    """Every metric of one model on one truth.

    Args:
        images: Images with a true label, which the metrics are about.
        left_out: Images without one.
        classes: Classes that occur in the truth.
        metrics: Estimates by name, all in [0, 1].
        groups: Metrics by number of true labels.
        resamples: Bootstrap resamples of the metrics over images, and of those over classes.
    """

    images: int
    left_out: int
    classes: int
    metrics: dict[str, Estimate]
    groups: dict[str, Group]
    resamples: tuple[int, int]


def summarise(
    scores: np.ndarray, truth: np.ndarray, predicted: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> Summary:
    """All metrics with 95% percentile-bootstrap intervals over images (Efron 1979).

    Args:
        scores: float [N, C].
        truth: bool [N, C]; images without a true label are left out and counted.
        predicted: bool [N, C], the label sets claimed, for the set metrics.
        resamples: Bootstrap samples. Metrics over classes get fewer, but at least 50, where N x C is large. With 0
            the intervals are points.
        seed: Seed of the resampling.

    Raises:
        ValueError: Shapes differ, scores are not finite, or no image has a true label.
    """
    listed = truth.any(axis=1)
    left_out = int((~listed).sum())
    if left_out == len(truth):
        raise ValueError("no image has a true label")
    if left_out:
        scores, truth, predicted = scores[listed], truth[listed], predicted[listed]
    class_resamples = min(resamples, max(50, CLASS_WORK // scores.size))
    over_images = {
        "top1": metrics.top1_hits(scores, truth).astype(float),
        "map_over_images": metrics.average_precision(scores, truth),
        "subset_accuracy": metrics.exact_matches(predicted, truth).astype(float),
        "iou": metrics.set_iou(predicted, truth),
    }
    estimates = {name: bootstrap_mean(values, resamples, seed) for name, values in over_images.items()}
    estimates["map_over_classes"] = _bootstrap_class_map(scores, truth, class_resamples, seed)
    estimates |= _bootstrap_sets(predicted, truth, class_resamples, seed)
    return Summary(
        images=len(truth),
        left_out=left_out,
        classes=int(truth.any(axis=0).sum()),
        metrics=estimates,
        groups=metrics.by_label_count(scores, truth),
        resamples=(resamples, class_resamples),
    )


def bootstrap_mean(values: np.ndarray, resamples: int = 1000, seed: int = 0) -> Estimate:
    """The mean of values, float [N >= 1], with its 95% percentile-bootstrap interval."""
    means = [float(weights @ values) / len(values) for weights in _draws(len(values), resamples, seed)]
    return _estimate(np.array(means))


def _draws(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image counts, float [images]: once each, and then in every resample."""
    yield np.ones(images)
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(images, size=images), minlength=images).astype(float)


def _estimate(values: np.ndarray) -> Estimate:
    """From the value itself, at 0, and those of the resamples."""
    low, high = np.quantile(values[1:], [0.025, 0.975]) if len(values) > 1 else (values[0], values[0])
    return Estimate(float(values[0]), float(low), float(high))


def _bootstrap_class_map(scores: np.ndarray, truth: np.ndarray, resamples: int, seed: int) -> Estimate:
    """mAP over classes. Each class is ranked once; a resample only counts again how often each image is seen."""
    totals, counted = np.zeros(resamples + 1), np.zeros(resamples + 1)
    occurring = np.flatnonzero(truth.any(axis=0))
    block = max(1, _BLOCK // len(scores))
    for start in range(0, len(occurring), block):
        columns = occurring[start : start + block]
        order, ends = metrics.ranking(scores[:, columns].T)
        ranked = np.take_along_axis(truth[:, columns].T, order, axis=1)
        rows, places = np.nonzero(ranked)  # the true entries, class by class from the top
        firsts = np.searchsorted(rows, np.arange(len(columns)))
        places_tied = ends[rows, places]
        keys = rows * len(scores)
        last_tied = np.searchsorted(keys + places, keys + places_tied, side="right") - 1
        images = order[rows, places]
        for sample, weights in enumerate(_draws(len(scores), resamples, seed)):
            seen = np.cumsum(weights[order], axis=1)[rows, places_tied]
            gained = weights[images]
            running = np.cumsum(gained)
            before = (running - gained)[firsts][rows]
            found = running[last_tied] - before
            true = np.add.reduceat(gained, firsts)
            precision = np.divide(found, seen, out=np.zeros(len(seen)), where=seen > 0)
            sums = np.add.reduceat(gained * precision, firsts)
            totals[sample] += (sums[true > 0] / true[true > 0]).sum()
            counted[sample] += np.count_nonzero(true)
    return _estimate(totals / counted)


def _bootstrap_sets(predicted: np.ndarray, truth: np.ndarray, resamples: int, seed: int) -> dict[str, Estimate]:
    """Micro and macro precision, recall and F1 of label sets."""
    names = [f"{kind}_{name}" for kind in ("micro", "macro") for name in ("precision", "recall", "f1")]
    counted = [sets.astype(np.float32) for sets in (predicted & truth, predicted, truth)]
    values = []
    for weights in _draws(len(truth), resamples, seed):
        by_class = [weights.astype(np.float32) @ sets for sets in counted]
        pooled = metrics.prf(*(float(counts.sum()) for counts in by_class))
        mean = metrics.macro_prf(*by_class)
        values.append([pooled.precision, pooled.recall, pooled.f1, mean.precision, mean.recall, mean.f1])
    return {name: _estimate(column) for name, column in zip(names, np.array(values).T, strict=True)}

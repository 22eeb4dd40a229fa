"""All metrics of a model with bootstrap intervals, as reported by `evaluate` and `transfer`."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hf_relabel.evaluation import metrics
from hf_relabel.evaluation.metrics import Group

CLASS_WORK = 2_000_000_000
"""Maximum number of scores that the bootstrap of metrics over classes visits; it uses fewer resamples to stay below."""

_BLOCK = 4_000_000  # scores per ranking, to limit memory


@dataclass(frozen=True)
class Estimate:
    """The value of a metric and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """All metrics of a model.

    Args:
        images: Number of images with a true label; the metrics use these.
        left_out: Number of images without a true label.
        classes: Number of classes that occur in the truth.
        metrics: Estimates by name, all in [0, 1].
        groups: Metrics by number of true labels.
        resamples: Number of bootstrap resamples for the metrics over images and for those over classes.
    """

    images: int
    left_out: int
    classes: int
    metrics: dict[str, Estimate]
    groups: dict[str, Group]
    resamples: tuple[int, int]


def summarize(
    scores: np.ndarray, truth: np.ndarray, predicted: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> Summary:
    """Compute all metrics with 95% percentile bootstrap intervals over images (Efron 1979).

    Args:
        scores: float [N, C].
        truth: bool [N, C]; images without a true label are excluded and counted.
        predicted: Predicted label sets for the set metrics, bool [N, C].
        resamples: Number of bootstrap resamples. Metrics over classes use fewer, but at least 50, if N x C is large.
            With 0, each interval is the value itself.
        seed: Random seed of the resampling.

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
    """The mean of values, float [N >= 1], with its 95% percentile bootstrap interval."""
    means = [float(weights @ values) / len(values) for weights in _draws(len(values), resamples, seed)]
    return _estimate(np.array(means))


def _draws(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each image counts, float [images]: first once each, then for each resample."""
    yield np.ones(images)
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(images, size=images), minlength=images).astype(float)


def _estimate(values: np.ndarray) -> Estimate:
    """Make an estimate from the value itself, at index 0, and the values of the resamples."""
    low, high = np.quantile(values[1:], [0.025, 0.975]) if len(values) > 1 else (values[0], values[0])
    return Estimate(float(values[0]), float(low), float(high))


def _bootstrap_class_map(scores: np.ndarray, truth: np.ndarray, resamples: int, seed: int) -> Estimate:
    """mAP over classes; each class is ranked once, and resamples only change how often each image counts."""
    totals, counted = np.zeros(resamples + 1), np.zeros(resamples + 1)
    occurring = np.flatnonzero(truth.any(axis=0))
    block = max(1, _BLOCK // len(scores))
    for start in range(0, len(occurring), block):
        columns = occurring[start : start + block]
        order, ends = metrics.ranking(scores[:, columns].T)
        ranked = np.take_along_axis(truth[:, columns].T, order, axis=1)
        rows, places = np.nonzero(ranked)  # the true entries of each class, from the highest score down
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
    """Micro- and macro-averaged precision, recall and F1 of label sets."""
    names = [f"{kind}_{name}" for kind in ("micro", "macro") for name in ("precision", "recall", "f1")]
    counted = [sets.astype(np.float32) for sets in (predicted & truth, predicted, truth)]
    values = []
    for weights in _draws(len(truth), resamples, seed):
        by_class = [weights.astype(np.float32) @ sets for sets in counted]
        pooled = metrics.prf(*(float(counts.sum()) for counts in by_class))
        mean = metrics.macro_prf(*by_class)
        values.append([pooled.precision, pooled.recall, pooled.f1, mean.precision, mean.recall, mean.f1])
    return {name: _estimate(column) for name, column in zip(names, np.array(values).T, strict=True)}

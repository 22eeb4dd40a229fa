"""Bootstrap intervals and the summary of all metrics."""

import numpy as np
import pytest

from hf_relabel.evaluation import metrics, summary


def _data(images=80, classes=6, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.random((images, classes)) < 0.35
    truth[:, -1] = False
    scores = rng.random((images, classes)) + 0.4 * truth
    return scores, truth


def test_summary_contains_every_metric_and_excludes_images_without_labels():
    scores, truth = _data()
    truth[:5] = False
    found = summary.summarize(scores, truth, scores > 0.7, resamples=60)
    listed = truth.any(axis=1)
    assert found.left_out == (~listed).sum() >= 5
    assert found.images == listed.sum()
    assert found.classes == 5
    assert found.resamples == (60, 60)
    expected = {
        "top1": metrics.top1_hits(scores, truth)[listed].mean(),
        "map_over_images": metrics.map_over_images(scores, truth),
        "map_over_classes": metrics.map_over_classes(scores[listed], truth[listed]),
        "subset_accuracy": metrics.exact_matches(scores > 0.7, truth)[listed].mean(),
        "iou": metrics.set_iou(scores > 0.7, truth)[listed].mean(),
        "micro_f1": metrics.micro(scores[listed] > 0.7, truth[listed]).f1,
        "macro_precision": metrics.macro(scores[listed] > 0.7, truth[listed]).precision,
        "macro_f1": metrics.macro(scores[listed] > 0.7, truth[listed]).f1,
    }
    for name, value in expected.items():
        estimate = found.metrics[name]
        assert estimate.value == pytest.approx(value), name
        assert estimate.low < estimate.value < estimate.high, name
    assert sum(group.images for group in found.groups.values()) == found.images


def test_class_map_resampling_equals_repeating_images():
    scores, truth = _data(images=30)
    scores = np.round(scores, 1)  # ties too
    means = []
    for weights in summary._draws(30, 40, seed=3):
        rows = np.repeat(np.arange(30), weights.astype(int))
        means.append(metrics.map_over_classes(scores[rows], truth[rows]))
    found = summary._bootstrap_class_map(scores, truth, 40, seed=3)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means[1:], [0.025, 0.975])))
    assert found.value == pytest.approx(metrics.map_over_classes(scores, truth))


def test_the_block_size_does_not_change_the_result(monkeypatch):
    scores, truth = _data()
    whole = summary._bootstrap_class_map(scores, truth, 10, seed=0)
    monkeypatch.setattr(summary, "_BLOCK", 1)
    blocked = summary._bootstrap_class_map(scores, truth, 10, seed=0)
    assert (blocked.value, blocked.low, blocked.high) == pytest.approx((whole.value, whole.low, whole.high))


def test_interval_of_a_mean_covers_about_95_of_100_true_means():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        estimate = summary.bootstrap_mean(rng.normal(0.5, 0.2, size=60), resamples=200, seed=trial)
        covered += estimate.low <= 0.5 <= estimate.high
    assert 87 <= covered <= 100


def test_without_resamples_an_interval_is_a_point_and_a_seed_is_reproducible():
    scores, truth = _data()
    point = summary.summarize(scores, truth, truth, resamples=0).metrics["map_over_classes"]
    assert point.low == point.value == point.high
    first = summary.summarize(scores, truth, truth, resamples=20, seed=1)
    assert first == summary.summarize(scores, truth, truth, resamples=20, seed=1)


def test_truth_without_any_label_is_refused():
    with pytest.raises(ValueError, match="no image has a true label"):
        summary.summarize(np.zeros((2, 3)), np.zeros((2, 3), bool), np.zeros((2, 3), bool))

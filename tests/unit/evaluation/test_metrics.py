"""The metrics against scikit-learn and against tables worked out by hand."""

import math
import warnings

import numpy as np
import pytest

from hf_relabel.evaluation import metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics")


@pytest.fixture(params=["distinct", "tied", "sparse"])
def scored(request):
    """Scores [60, 9] and truth [60, 9]; image 0 and class 0 have no true label."""
    rng = np.random.default_rng(7)
    scores = rng.random((60, 9))
    if request.param == "tied":
        scores = np.round(scores * 4) / 4
    if request.param == "sparse":
        scores[rng.random(scores.shape) < 0.7] = 0
    truth = rng.random((60, 9)) < 0.3
    truth[:, 0] = truth[0] = False
    return scores, truth


def test_average_precision_of_images_and_classes_equals_scikit_learn(scored):
    scores, truth = scored
    for values, s, t in (
        (metrics.average_precision(scores, truth), scores, truth),
        (metrics.average_precision(scores.T, truth.T), scores.T, truth.T),
    ):
        for value, row, true in zip(values, s, t, strict=True):
            if true.any():
                assert value == pytest.approx(sklearn_metrics.average_precision_score(true, row), abs=1e-12)
            else:
                assert math.isnan(value)
    rows, columns = truth.any(axis=1), truth.any(axis=0)
    expected = sklearn_metrics.average_precision_score(truth[rows].T, scores[rows].T)
    assert metrics.map_over_images(scores, truth) == pytest.approx(expected)
    expected = sklearn_metrics.average_precision_score(truth[:, columns], scores[:, columns])
    assert metrics.map_over_classes(scores, truth) == pytest.approx(expected)


def test_set_metrics_equal_scikit_learn(scored):
    scores, truth = scored
    predicted = scores >= 0.5
    predicted[1] = False
    for kind, mine in (("micro", metrics.micro(predicted, truth)), ("macro", metrics.macro(predicted, truth))):
        present = np.flatnonzero(predicted.any(axis=0) | truth.any(axis=0))
        expected = sklearn_metrics.precision_recall_fscore_support(
            truth, predicted, average=kind, labels=present, zero_division=0
        )
        assert [mine.precision, mine.recall, mine.f1] == pytest.approx(expected[:3])
    assert metrics.exact_matches(predicted, truth).mean() == sklearn_metrics.accuracy_score(truth, predicted)
    expected = sklearn_metrics.jaccard_score(truth, predicted, average="samples", zero_division=1)
    assert metrics.set_iou(predicted, truth).mean() == pytest.approx(expected)


def test_macro_excludes_classes_that_are_neither_predicted_nor_true():
    truth = np.array([[True, False, False], [True, False, False]])
    predicted = np.array([[True, False, False], [False, True, False]])
    # class 0: precision 1, recall 1/2, F1 2/3; class 1: 0, 0, 0; class 2 does not occur
    assert metrics.macro(predicted, truth) == metrics.PRF(0.5, 0.25, pytest.approx(1 / 3))
    assert metrics.micro(predicted, truth) == metrics.PRF(0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("scores", "true", "expected"),
    [
        ([4, 3, 2, 1], [1, 0, 0, 0], 1.0),
        ([4, 3, 2, 1], [0, 0, 0, 1], 1 / 4),
        ([4, 3, 2, 1], [1, 0, 1, 0], (1 + 2 / 3) / 2),
        ([4, 3, 2, 1], [1, 1, 1, 1], 1.0),
        ([1, 1, 1, 1], [0, 1, 0, 0], 1 / 4),  # all tied: one step over all four
        ([4, 1, 1, 1], [1, 0, 0, 1], (1 + 2 / 4) / 2),  # the true class among three tied ones
        ([4, 4, 2, 1], [1, 0, 1, 0], (1 / 2 + 2 / 3) / 2),
        ([4, 3, 2, 1], [0, 0, 0, 0], math.nan),
    ],
)
def test_average_precision_by_hand(scores, true, expected):
    value = metrics.average_precision(np.array([scores], float), np.array([true], bool))[0]
    assert value == pytest.approx(expected, nan_ok=True)


def test_average_precision_is_the_same_in_blocks(monkeypatch, scored):
    scores, truth = scored
    whole = metrics.average_precision(scores, truth)
    monkeypatch.setattr(metrics, "_BLOCK", 7)
    np.testing.assert_array_equal(metrics.average_precision(scores, truth), whole)


def test_top1_with_a_tie_uses_the_lowest_index():
    scores = np.array([[0.1, 0.9, 0.2], [0.5, 0.5, 0.1], [0.5, 0.5, 0.1], [0.3, 0.2, 0.1]])
    truth = metrics.multi_hot([[1, 2], [1], [0], []], 3)
    assert metrics.top1_hits(scores, truth).tolist() == [True, False, True, False]
    assert metrics.top1_hits(np.zeros((0, 3)), np.zeros((0, 3), bool)).tolist() == []


def test_by_label_count_by_hand():
    truth = metrics.multi_hot([[0], [1], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4], []], 5)
    scores = np.tile([5.0, 4.0, 3.0, 2.0, 1.0], (6, 1))
    groups = metrics.by_label_count(scores, truth)
    assert groups["1"] == metrics.Group(2, 0.5, 0.75)
    assert groups["2"] == metrics.Group(1, 1.0, 1.0)
    assert groups["3"].images == 0
    assert math.isnan(groups["3"].top1)
    assert math.isnan(groups["3"].map_over_images)
    assert groups[">=4"] == metrics.Group(2, 1.0, 1.0)


def test_empty_sets():
    nothing = np.zeros((2, 3), bool)
    assert metrics.micro(nothing, nothing) == metrics.PRF(0, 0, 0)
    assert metrics.macro(nothing, nothing) == metrics.PRF(0, 0, 0)
    assert metrics.set_iou(nothing, nothing).tolist() == [1, 1]
    assert metrics.exact_matches(nothing, nothing).tolist() == [True, True]
    assert math.isnan(metrics.map_over_images(np.zeros((2, 3)), nothing))
    assert math.isnan(metrics.map_over_classes(np.zeros((2, 3)), nothing))
    assert np.isnan(metrics.average_precision(np.zeros((2, 0)), np.zeros((2, 0), bool))).all()


def test_multi_hot():
    assert metrics.multi_hot([[2, 0], []], 3).tolist() == [[True, False, True], [False] * 3]
    assert metrics.multi_hot([], 3).shape == (0, 3)
    with pytest.raises(ValueError, match="from 0 to 2, got 1 to 3"):
        metrics.multi_hot([[1, 3]], 3)


def test_wrong_shapes_and_values_are_refused():
    truth = np.ones((2, 3), bool)
    for values, true in ((np.ones((2, 2)), truth), (np.ones((2, 3)), np.ones((2, 3))), (np.ones(3), np.ones(3, bool))):
        with pytest.raises(ValueError, match="expected"):
            metrics.average_precision(values, true)
    with pytest.raises(ValueError, match="finite"):
        metrics.top1_hits(np.full((2, 3), np.nan), truth)


def test_reliability_by_hand():
    scores = np.array([0.0, 0.05, 0.1, 0.1, 0.95, 1.0, 1.0])
    hits = np.array([False, True, True, False, True, True, False])
    table = metrics.reliability(scores, hits)
    assert [row.count for row in table] == [2, 2, 0, 0, 0, 0, 0, 0, 0, 3]  # 0.1 starts its bin, 1.0 is in the last
    assert table[0] == metrics.Bin(0.0, 0.1, 2, 0.025, 0.5)
    assert (table[9].mean_score, table[9].hit_rate) == (pytest.approx(2.95 / 3), pytest.approx(2 / 3))
    assert math.isnan(table[2].mean_score)
    assert math.isnan(table[2].hit_rate)
    expected = (2 * 0.475 + 2 * 0.4 + 3 * abs(2.95 / 3 - 2 / 3)) / 7
    assert metrics.expected_calibration_error(table) == pytest.approx(expected)
    assert math.isnan(metrics.expected_calibration_error(metrics.reliability(np.zeros(0), np.zeros(0, bool))))


def test_reliability_equals_scikit_learn():
    calibration = pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(3)
    scores = rng.random(500)
    hits = rng.random(500) < scores**2
    rates, means = calibration.calibration_curve(hits, scores, n_bins=8)
    table = metrics.reliability(scores, hits, bins=8)
    assert [row.hit_rate for row in table] == pytest.approx(rates)
    assert [row.mean_score for row in table] == pytest.approx(means)
    with pytest.raises(ValueError, match="from 0 to 1"):
        metrics.reliability(np.array([1.5]), np.array([True]))


@pytest.mark.parametrize("decimals", [1, 6])
def test_threshold_curve_equals_scikit_learn(decimals):
    rng = np.random.default_rng(5)
    scores = np.round(rng.random(200), decimals)
    hits = rng.random(200) < scores
    curve = metrics.threshold_curve(scores, hits, int(hits.sum()))
    precision, recall, thresholds = sklearn_metrics.precision_recall_curve(hits, scores)
    np.testing.assert_allclose(curve.thresholds[::-1], thresholds)
    np.testing.assert_allclose(curve.precision[::-1], precision[:-1])
    np.testing.assert_allclose(curve.recall[::-1], recall[:-1])
    chosen = scores >= curve.thresholds[curve.best]
    assert curve.f1[curve.best] == pytest.approx(sklearn_metrics.f1_score(hits, chosen))


def test_threshold_curve_counts_missed_labels_and_prefers_the_higher_threshold():
    curve = metrics.threshold_curve(np.array([0.9, 0.5, 0.5, 0.2]), np.array([True, True, False, False]), 4)
    assert curve.thresholds.tolist() == [0.9, 0.5, 0.2]
    assert curve.recall.tolist() == [0.25, 0.5, 0.5]
    assert curve.f1.tolist() == pytest.approx([2 / 5, 4 / 7, 4 / 8])
    assert curve.best == 1
    # F1 is 2/3 both at 0.9 (1 of 1, 1 of 2) and at 0.1 (2 of 4, 2 of 2)
    tied = metrics.threshold_curve(np.array([0.9, 0.1, 0.1, 0.1]), np.array([True, True, False, False]), 2)
    assert tied.f1.tolist() == pytest.approx([2 / 3, 2 / 3])
    assert tied.best == 0
    assert metrics.threshold_curve(np.array([0.5]), np.array([False]), 0).f1.tolist() == [0]
    with pytest.raises(ValueError, match="0 predictions"):
        metrics.threshold_curve(np.zeros(0), np.zeros(0, bool), 3)


def test_no_warning_is_raised_by_rows_without_a_true_label(scored):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.average_precision(*scored)
        metrics.by_label_count(*scored)

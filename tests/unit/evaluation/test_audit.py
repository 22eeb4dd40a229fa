"""The audit against a truth worked out by hand."""

import numpy as np
import pytest
from release_folder import write_release

from hf_relabel.evaluation import metrics
from hf_relabel.evaluation.audit import Confusion, LabelScores, audit, listed_average_precision
from hf_relabel.hub.releases import load_labels

NAMES = ["bird", "cat", "dog", "fish"]
ROWS = [
    {"image_id": "a", "label": 0, "labels": [0, 1], "scores": [1.0, 0.75]},
    {"image_id": "b", "label": 1, "labels": [1, 2], "scores": [1.0, 0.5]},
    {"image_id": "c", "label": 2, "labels": [3], "scores": [0.25]},
    {"image_id": "d", "label": 3, "labels": [3], "scores": [1.0]},
]
TRUTH = metrics.multi_hot([[0, 1], [1, 3], [3], []], 4)


@pytest.fixture
def table(tmp_path):
    return load_labels(str(write_release(tmp_path / "release", NAMES, ROWS)))


def test_audit_by_hand(table):
    result = audit(table, TRUTH)
    assert (result.images, result.left_out) == (3, 1)
    # pairs by score: 1.0 hit, 1.0 hit, 0.75 hit, 0.5 miss, 0.25 hit; 5 true pairs
    at = {row.threshold: row for row in result.thresholds}
    assert (at[0.0].precision, at[0.0].recall, at[0.0].f1) == (4 / 5, 4 / 5, 4 / 5)
    assert (at[0.75].precision, at[0.75].recall, at[0.75].f1) == (1, 3 / 5, 3 / 4)
    assert at[0.8].recall == 2 / 5
    assert at[0.8].labels_per_image == 2 / 3
    assert (result.best.threshold, result.best.f1) == (0.25, 0.8)
    # images: a 1; b (1 + 2/4)/2, because the unlisted fish ties for last place; c 1
    assert at[0.0].map_over_images == pytest.approx((1 + 0.75 + 1) / 3)
    assert at[0.0].subset_accuracy == pytest.approx(2 / 3)
    assert at[0.0].iou == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert result.agreement.listed == pytest.approx(2 / 3)
    assert result.agreement.first == pytest.approx(2 / 3)
    assert result.agreement.true == pytest.approx(2 / 3)
    assert result.agreement.true_labels_per_image == 5 / 3
    assert [(item.class_name, item.images, item.true) for item in result.added] == [
        ("cat", 1, 1),
        ("dog", 1, 0),
        ("fish", 1, 1),
    ]
    assert [(item.class_name, item.images, item.true) for item in result.dropped] == [("dog", 1, 0)]
    assert result.confused == [Confusion("fish", "dog", 1)]


def test_labels_added_to_an_image_of_other_classes_are_false(table):
    truth = metrics.multi_hot([[0, 1], [], [3], []], 4)  # b shows only classes that the release does not have
    assert audit(table, truth).added_labels.true_precision == 1
    result = audit(table, truth, known=np.array([True, True, True, False]))
    assert (result.images, result.left_out, result.other_classes) == (3, 1, 1)
    assert result.added_labels.true_precision == pytest.approx(2 / 3)
    assert result.thresholds[0].precision == 3 / 5
    assert result.agreement.true == pytest.approx(1 / 3)


def test_what_the_scores_of_added_labels_are_worth(table):
    added = audit(table, TRUTH, bins=4).added_labels
    # bins [0.25, 0.5): 0.25 hit; [0.5, 0.75): 0.5 miss; [0.75, 1]: 0.75 hit; the original labels do not count
    assert added.labels == 3
    assert [row.count for row in added.reliability] == [0, 1, 1, 1]
    assert [row.hit_rate for row in added.reliability[1:]] == [1, 0, 1]
    assert added.ece == pytest.approx((0.75 + 0.5 + 0.25) / 3)
    assert added.estimated_precision == pytest.approx(0.5)
    assert added.true_precision == pytest.approx(2 / 3)


def test_a_release_without_added_labels(tmp_path):
    rows = [{**row, "labels": [row["label"]], "scores": [1.0]} for row in ROWS]
    added = audit(load_labels(str(write_release(tmp_path / "release", NAMES, rows))), TRUTH).added_labels
    assert added.labels == 0
    assert np.isnan([added.estimated_precision, added.true_precision, added.ece]).all()


def test_label_scores_find_false_original_labels(tmp_path):
    # The original labels of a and b are true, that of c is false; d has no truth. Of the two pairs, one is in order.
    scored = [{**row, "label_score": score} for row, score in zip(ROWS, (0.9, 0.1, 0.3, 0.0), strict=True)]
    table = load_labels(str(write_release(tmp_path / "release", NAMES, scored)))
    assert audit(table, TRUTH).label_scores == LabelScores(images=3, false=1, auc=0.5)
    scored[1]["label_score"] = None
    table = load_labels(str(write_release(tmp_path / "fewer", NAMES, scored)))
    assert audit(table, TRUTH).label_scores == LabelScores(images=2, false=1, auc=1.0)
    scored[2]["label_score"] = None
    found = audit(load_labels(str(write_release(tmp_path / "true", NAMES, scored))), TRUTH).label_scores
    assert (found.images, found.false) == (1, 0)
    assert np.isnan(found.auc), "nothing to tell apart"


def test_average_precision_from_lists_and_from_the_matrix_are_equal():
    rng = np.random.default_rng(2)
    truth = rng.random((50, 12)) < 0.2
    dense = np.round(rng.random((50, 12)), 1) * (rng.random((50, 12)) < 0.3)
    rows, classes = np.nonzero(dense)
    found = listed_average_precision(rows, classes, dense[rows, classes], truth)
    np.testing.assert_allclose(found, metrics.average_precision(dense, truth))
    nothing = np.zeros(0, int)
    found = listed_average_precision(nothing, nothing, np.zeros(0), truth)
    np.testing.assert_allclose(found, metrics.average_precision(np.zeros((50, 12)), truth))


def test_nothing_to_audit(table):
    with pytest.raises(ValueError, match="no image has a true label"):
        audit(table, np.zeros((4, 4), bool))

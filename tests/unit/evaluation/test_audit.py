"""The audit against a truth worked out by hand."""

import numpy as np
import pytest
from release_folder import write_release

from hf_relabel.evaluation import metrics
from hf_relabel.evaluation.audit import Confusion, audit, listed_average_precision
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


def test_calibration_of_all_and_of_added_labels(table):
    result = audit(table, TRUTH, bins=4)
    assert result.calibration.labels == 5
    assert result.calibration_of_added.labels == 3
    # bins [0.25, 0.5): 0.25 hit; [0.5, 0.75): 0.5 miss; [0.75, 1]: 1, 1, 0.75, all hits
    assert [row.count for row in result.calibration.table] == [0, 1, 1, 3]
    assert result.calibration.ece == pytest.approx((0.75 + 0.5 + 3 * (1 - 2.75 / 3)) / 5)
    assert result.calibration_of_added.ece == pytest.approx((0.75 + 0.5 + 0.25) / 3)


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

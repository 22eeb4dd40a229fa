"""What a release records about its scores."""

import re
from typing import Any

import pytest
from evidence import counted, simulate

from hf_relabel.config import BuildConfig
from hf_relabel.labeling.image_labels import LabelRule
from hf_relabel.labeling.labeler import ImageScores
from hf_relabel.labeling.score_record import AddedLabels, score_record
from hf_relabel.labeling.scoring import choose


def training_with(scores: ImageScores, folds: int = 5) -> dict[str, Any]:
    inputs = {"train": {"background": True}}
    return {"head": "discriminant", "folds": folds, "inputs": inputs, "scores": scores.to_json()}


def rule_of(threshold: float = 0.5, **settings) -> LabelRule:
    return LabelRule(threshold, {}, frozenset(), BuildConfig(**settings))


@pytest.fixture(scope="module")
def scores() -> ImageScores:
    """Scores measured on images that show 1.2 further classes each."""
    evidence, _, label = simulate(2000, 0.06, 5.0)
    chosen = choose({"object": counted(evidence, label)})
    assert chosen.adds
    return chosen


def test_added_labels_are_counted_without_the_given_ones():
    added = AddedLabels()
    added.add(3, [(3, 1.0), (1, 0.9), (0, 0.5)])
    added.add(0, [(0, 1.0)])
    added.add(2, [(4, 0.6)])
    assert (added.labels, added.score_sum) == (3, 2.0)


def test_the_estimated_precision_is_the_mean_score_of_the_added_labels(scores):
    record = score_record(training_with(scores), rule_of(0.7), AddedLabels(40, 34.0))
    assert record["added"] == {"labels": 40, "true": 34.0, "precision": 0.85}
    assert (record["calibrated"], record["background"], record["head"], record["folds"]) == (
        True, True, "discriminant", 5,
    )  # fmt: skip
    assert (record["evidence"], record["threshold"], record["note"]) == ("object", 0.7, None)
    assert record["propensity"] == scores.calibration.propensity
    assert record["still_to_learn"] == 0  # nothing is known of heads on fewer images
    assert record["images"] == 2000
    assert sum(row["labels"] + row["given"] for row in record["reliability"]) == 2000 * 20


def test_softmax_scores_give_no_estimates(scores):
    record = score_record(training_with(scores), rule_of(calibrated=False), AddedLabels(40, 34.0))
    assert record["added"] == {"labels": 40, "true": None, "precision": None}
    assert (record["propensity"], record["evidence"], record["reliability"]) == (None, None, [])


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("no gain", r"estimated gain is too small \(0 labels would be added, 0 of them true by estimate\)"),
        ("few images", "too few images to calibrate scores on"),
        ("no folds", r"no cross-fitting folds \(train\.folds 0\)"),
        ("precision", r"no threshold reaches an estimated precision of 0\.99 \(build\.precision\)"),
        ("threshold", "none has a score of at least 0.95"),
        ("softmax", "none has a score of at least 1"),
    ],
)
def test_the_note_says_why_nothing_was_added(scores, case, reason):
    unmeasured = ImageScores("object", None, False, {})
    evidence, _, label = simulate(400, 0.0, 5.0)
    training, rule = {
        "no gain": (training_with(choose({"object": counted(evidence, label)})), rule_of()),
        "few images": (training_with(unmeasured), rule_of()),
        "no folds": (training_with(unmeasured, folds=0), rule_of()),
        "precision": (training_with(scores), rule_of(1.1, precision=0.99)),
        "threshold": (training_with(scores), rule_of(0.95)),
        "softmax": (training_with(unmeasured, folds=0), rule_of(1.0, calibrated=False)),
    }[case]
    record = score_record(training, rule, AddedLabels())
    assert record["added"] == {"labels": 0, "true": None, "precision": None}
    assert record["note"].startswith("no label was added: ")
    assert re.search(reason, record["note"])
    assert "\n" not in record["note"]
    assert record["threshold"] == (None if case == "precision" else rule.threshold)

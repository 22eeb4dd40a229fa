import numpy as np
import pytest
from evidence import counted, simulate

from hf_relabel.labeling.calibration import (
    LIMIT,
    MIN_IMAGES,
    Calibration,
    EvidenceCounts,
    SmallerFit,
    estimate,
    reliability,
)


@pytest.mark.parametrize(("present", "strength"), [(0.05, 4.0), (0.1, 2.5), (0.02, 3.0)])
def test_scores_match_the_truth_where_the_propensity_is_constant(present, strength):
    evidence, truth, label = simulate(4000, present, strength)
    calibration = Calibration.fit(counted(evidence, label))
    expected = np.mean([1 / row.sum() for row in truth for _ in range(row.sum())])
    assert expected - 0.05 < calibration.propensity < expected + 0.12
    other = np.ones_like(truth)
    other[np.arange(len(label)), label] = False
    scores = calibration.of_other(evidence)
    for low, high in ((0.1, 0.5), (0.5, 0.9), (0.9, 1.01)):
        inside = other & (scores >= low) & (scores < high)
        assert truth[inside].mean() - 0.25 < scores[inside].mean() < truth[inside].mean() + 0.1
    guess = estimate(calibration, counted(evidence, label), 0.5)
    added = other & (scores >= 0.5)
    assert guess.added == pytest.approx(added.sum(), rel=0.05)
    assert truth[added].mean() - 0.25 < guess.precision < truth[added].mean() + 0.02  # it errs to the careful side


def test_images_of_one_label_each_get_no_other():
    evidence, _, label = simulate(2000, 0.0, 2.5)
    calibration = Calibration.fit(counted(evidence, label))
    assert calibration.propensity > 0.95
    assert estimate(calibration, counted(evidence, label), 0.5).added < 0.005 * len(label)


def test_evidence_without_any_information_adds_nothing():
    rng = np.random.default_rng(3)
    evidence, label = rng.normal(size=(4000, 10)), rng.integers(10, size=4000)
    counts = counted(evidence, label)
    assert estimate(Calibration.fit(counts), counts, 0.5).gain <= 0


def test_scores_rise_with_the_evidence_and_stay_within_bounds():
    evidence, _, label = simulate(500, 0.1, 2.0)
    calibration = Calibration.fit(counted(evidence, label))
    line = np.linspace(-LIMIT - 5, LIMIT + 5, 500)
    for scores in (calibration.of_given(line), calibration.of_other(line)):
        assert (np.diff(scores) >= 0).all()
        assert scores.min() >= 0
        assert scores.max() <= 1


def test_too_few_images_are_not_calibrated():
    evidence, _, label = simulate(MIN_IMAGES - 1, 0.1, 3.0)
    assert Calibration.fit(counted(evidence, label)) is None
    assert Calibration.fit(EvidenceCounts()) is None


def test_a_few_images_of_many_classes_are_not_calibrated():
    """Thirty photos, one per class, of a list of 1,000 classes: three pairs say nothing about the propensity."""
    evidence, _, label = simulate(30, 0.02, 2.0, classes=1000)
    assert Calibration.fit(counted(evidence, label)) is None


def mistaken(images: int, share_wrong: float, seed: int = 0):
    """Images that show one class each; where the labeler is surest, it names another class in `share_wrong` of them."""
    evidence, _, label = simulate(images, 0.0, 4.0, seed)
    rng = np.random.default_rng(seed)
    wrong = np.flatnonzero(rng.random(images) < share_wrong)
    other = (label[wrong] + rng.integers(1, 20, size=len(wrong))) % 20
    evidence[wrong, label[wrong]], evidence[wrong, other] = evidence[wrong, other], evidence[wrong, label[wrong]]
    return counted(evidence, label)


def test_mistakes_that_the_labeler_would_still_unlearn_are_not_taken_for_missing_labels():
    """A fifth of the sure pairs are mistakes, over a third with half as many images: with more, hardly any."""
    counts, smaller = mistaken(2000, 0.2), SmallerFit(mistaken(8000, 0.36, seed=1), 0.5)
    fooled, careful = Calibration.fit(counts), Calibration.fit(counts, smaller)
    assert estimate(fooled, counts, 0.5).added > 20
    assert careful.still_to_learn == pytest.approx(0.16, abs=0.05)
    assert careful.propensity > fooled.propensity + 0.1
    assert estimate(careful, counts, 0.5).added == 0


def test_a_labeler_that_learns_nothing_more_keeps_its_propensity():
    """Labels are missing, and heads fitted on half of the images found as many of them."""
    counts = counted(*simulate(6000, 0.1, 4.0)[::2])
    smaller = SmallerFit(counted(*simulate(8000, 0.1, 4.0, seed=1)[::2]), 0.5)
    alone, careful = Calibration.fit(counts), Calibration.fit(counts, smaller)
    assert careful.still_to_learn < 0.03
    assert estimate(careful, counts, 0.5).added > 0.9 * estimate(alone, counts, 0.5).added > 100


def test_classes_without_images_are_no_reason_to_believe_in_the_others():
    evidence, _, label = simulate(500, 0.1, 2.0)
    more = np.hstack([evidence, np.full((500, 900), -LIMIT)])
    assert Calibration.fit(counted(more, label)).lift == Calibration.fit(counted(evidence, label)).lift


def test_one_class_is_always_the_given_one():
    counts = EvidenceCounts()
    counts.add(np.random.default_rng(0).normal(size=(200, 1)), np.zeros(200, np.int64))
    assert estimate(Calibration.fit(counts), counts, 0.5).added == 0


def test_it_is_stored_as_plain_values():
    import json

    evidence, _, label = simulate(600, 0.1, 2.0)
    calibration = Calibration.fit(counted(evidence, label))
    again = Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
    assert np.array_equal(again.of_other(evidence), calibration.of_other(evidence))


def test_the_reliability_table_counts_every_label_once():
    evidence, _, label = simulate(1000, 0.1, 2.0)
    counts = counted(evidence, label)
    rows = reliability(Calibration.fit(counts), counts)
    assert sum(row["labels"] for row in rows) == evidence.size - len(label)
    assert all(row["low"] <= row["score"] <= row["high"] for row in rows if row["score"] is not None)

"""Which kind of evidence is trusted, and whether labels are added at all."""

import numpy as np
import pytest
from evidence import counted, simulate

from hf_relabel.labeling.scoring import THRESHOLD, choose


def of(strength: float, images: int = 2000, present: float = 0.1, seed: int = 0):
    evidence, _, label = simulate(images, present, strength, seed)
    return counted(evidence, label)


@pytest.mark.parametrize(("strengths", "better"), [((1.5, 4.0), "agreement"), ((4.0, 1.5), "object")])
def test_the_evidence_that_promises_more_is_chosen(strengths, better):
    scores = choose(dict(zip(("object", "agreement"), map(of, strengths), strict=True)))
    assert scores.evidence == better
    assert scores.adds
    assert scores.calibration.propensity == scores.estimates[better]["propensity"]
    gains = {name: expected["gain"] for name, expected in scores.estimates.items()}
    assert gains[better] == max(gains.values()) > 0


def test_of_equal_evidence_the_first_is_chosen():
    counts = of(3.0)
    assert choose({"object": counts, "agreement": counts}).evidence == "object"


def test_nothing_is_added_where_every_image_shows_one_class():
    """The labeler is nearly always right, so hardly any class but the given one is sure."""
    scores = choose({"object": of(4.0, present=0.0)})
    assert not scores.adds
    assert scores.calibration is not None


def test_nothing_is_added_by_a_labeler_that_cannot_tell_classes_apart():
    rng = np.random.default_rng(0)
    counts = counted(3 * rng.normal(size=(1000, 10)), rng.integers(10, size=1000))
    assert not choose({"object": counts}).adds


def test_a_few_sure_labels_are_not_worth_the_risk():
    """The expected gain is positive but tiny: below it, labels were as often wrong as right on real photos."""
    scores = choose({"object": of(4.0, images=2000, present=0.0004)})
    assert scores.estimates["object"]["gain"] < 20
    assert not scores.adds


def test_too_few_images_to_judge():
    scores = choose({"object": of(3.0, images=10), "agreement": of(3.0, images=10)})
    assert (scores.calibration, scores.adds, scores.estimates) == (None, False, {})


def test_the_estimate_is_near_the_truth():
    evidence, truth, label = simulate(4000, 0.1, 3.0)
    scores = choose({"object": counted(evidence, label)})
    expected = scores.estimates["object"]
    probability = scores.calibration.of_other(evidence)
    probability[np.arange(len(label)), label] = 0
    added = probability >= THRESHOLD
    assert expected["added"] == pytest.approx(added.sum(), rel=0.05)
    assert truth[added].mean() - 0.25 < expected["precision"] < truth[added].mean() + 0.05

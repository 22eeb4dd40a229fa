"""Numbers from answers: intervals that contain the truth as often as they say, recalibration, thresholds, merging."""

import json

import numpy as np
import pytest

from hf_relabel.errors import FormatError
from hf_relabel.review.answers import Answer, merge_reviews, read_review
from hf_relabel.review.checked import threshold_of
from hf_relabel.review.estimates import by_range, corrected, mistakes_of, overall, weights_of
from hf_relabel.review.recalibration import Recalibration
from hf_relabel.review.sample import Stratum

STRATA = [Stratum(0.5, 0.7, 3000, 80), Stratum(0.7, 0.9, 1500, 60), Stratum(0.9, 1.0, 1500, 60)]
SHARES = (0.5, 0.75, 0.95)
PRECISION = float(np.average(SHARES, weights=[stratum.labels for stratum in STRATA]))


def answers_of(generator: np.random.Generator, mistakes: float = 0.0, shares=SHARES) -> list[Answer]:
    """Answers to a random sample of labels, of which each stratum has a share of true ones."""
    found = []
    for number, (stratum, share) in enumerate(zip(STRATA, shares, strict=True)):
        for item in range(stratum.sampled):
            is_true = bool(generator.random() < share) != bool(generator.random() < mistakes)
            found.append(Answer(f"{number}-{item}", "cat", (stratum.low + stratum.high) / 2, number, is_true, "a", "t"))
    return found


def contained(mistakes: float, correction: float, seeds: int = 200) -> float:
    found = [overall(STRATA, answers_of(np.random.default_rng(seed), mistakes)) for seed in range(seeds)]
    intervals = [corrected(interval, correction) for interval in found]
    return sum(interval.low <= PRECISION <= interval.high for interval in intervals) / seeds


def test_the_interval_contains_the_precision_as_often_as_it_says():
    assert 0.92 <= contained(0.0, 0.0) <= 1
    assert contained(0.05, 0.0, 50) >= 0.9  # 5% wrong answers
    assert contained(0.15, 0.0) < 0.7  # many wrong answers mislead, unless their share is known
    assert 0.9 <= contained(0.15, 0.15) <= 1


def test_strata_count_by_their_labels_and_not_by_their_answers():
    answers = [Answer("a", "cat", 0.6, 0, True, "", ""), Answer("b", "cat", 0.8, 1, False, "", "")]
    answers += [Answer(str(number), "cat", 0.95, 2, True, "", "") for number in range(50)]
    assert weights_of(STRATA, answers)[:2].tolist() == [3000, 1500]
    assert overall(STRATA, answers).value == pytest.approx(0.75)


def test_unsure_answers_and_ranges_without_answers():
    answers = [Answer("a", "cat", 0.6, 0, True, "", ""), Answer("b", "cat", 0.8, 1, None, "", "")]
    rows = by_range(STRATA, answers)
    assert [(row.true, row.false, row.unsure) for row in rows] == [(1, 0, 0), (0, 0, 1), (0, 0, 0)]
    assert rows[1].precision is None
    assert weights_of(STRATA, answers).tolist() == [6000, 0]  # nothing is known of the others: like the nearest
    found = overall(STRATA, answers)
    assert found.low < 0.3
    assert found.high == pytest.approx(1)
    assert overall(STRATA, answers[1:]) is None
    assert overall(STRATA, []) is None


def test_all_true_is_not_certain():
    found = overall(STRATA, answers_of(np.random.default_rng(0), shares=(1, 1, 1)))
    assert found.value == 1
    assert 0.93 < found.low < 0.99


def test_recalibration_follows_many_answers_and_not_a_few():
    generator = np.random.default_rng(0)
    scores = generator.uniform(0.3, 0.95, 4000)
    true = generator.random(4000) < scores**2  # the scores are too high
    many = Recalibration.fit(scores, true, np.ones(4000))
    error = np.abs(many.apply(scores) - scores**2).mean()
    assert error < 0.03 < np.abs(scores - scores**2).mean()
    few = Recalibration.fit(np.full(2, 0.5), np.ones(2, bool), np.ones(2))
    assert 0.5 < few.apply(np.full(1, 0.5))[0] < 0.8  # though both labels are true
    none = Recalibration.fit(scores, true, np.zeros(4000))
    assert none.apply(scores) == pytest.approx(scores)
    assert np.all(np.diff(many.apply(np.linspace(0.01, 0.99, 99))) > 0)
    assert many.apply(np.zeros(1)).tolist() == [0]


def test_weights_scale_the_answers_but_not_their_number():
    scores, true = np.full(100, 0.8), np.arange(100) < 50
    one, many = (Recalibration.fit(scores, true, np.full(100, weight)) for weight in (1.0, 1000.0))
    assert one.intercept == pytest.approx(many.intercept, abs=1e-3)


def test_the_threshold_for_a_precision_is_on_the_present_scores():
    scores = np.linspace(0.5, 1.0, 501)[:-1]
    optimistic = Recalibration.fit(np.full(2000, 0.8), np.arange(2000) < 1000, np.ones(2000))
    plain, stricter = (
        threshold_of(0.8, scores, recalibration) for recalibration in (Recalibration(0, 0, 0), optimistic)
    )
    assert plain == pytest.approx(0.6, abs=0.01)  # the mean of 0.6 to 1
    assert stricter > plain + 0.1
    assert threshold_of(0.999999, scores, Recalibration(-5, 0, 0)) is None


def test_agreement_tells_the_share_of_wrong_answers():
    assert mistakes_of(1.0) == 0
    assert mistakes_of(0.95**2 + 0.05**2) == pytest.approx(0.05)
    assert mistakes_of(0.3) == 0.5


def review_file(path, who, answers, sample="s", changes=()):
    value = {
        "format": "hf_relabel review",
        "format_version": 1,
        "sample": sample,
        "release": {"name": "Tiny", "version": "1.0.0", "manifest_sha256": "0" * 64},
        "strata": [{"low": 0.5, "high": 0.6, "labels": 10, "sampled": 4}],
        "reviewer": who,
        "answers": [
            {"image": image, "label": "cat", "score": 0.55, "stratum": 0, "answer": answer, "when": f"2026-01-0{day}"}
            for image, answer, day in answers
        ],
        "changes": list(changes),
    }
    path.write_text(json.dumps(value))
    return path, read_review(path)


def test_several_reviewers_are_merged_by_majority(tmp_path):
    a = review_file(tmp_path / "a", "Ada", [("1", "true", 1), ("2", "true", 1), ("3", "unsure", 1), ("4", "true", 1)])
    b = review_file(tmp_path / "b", "Bob", [("1", "true", 2), ("2", "false", 2), ("3", "false", 2)])
    merged = merge_reviews([a, b])
    assert {answer.image: answer.is_true for answer in merged.answers} == {"1": True, "2": None, "3": False, "4": True}
    assert {answer.image: answer.who for answer in merged.answers}["1"] == "Ada, Bob"
    assert (merged.agreement.labels, merged.agreement.agreed) == (2, 1)
    c = review_file(tmp_path / "c", "Cy", [("2", "false", 3)])
    assert {answer.image: answer.is_true for answer in merge_reviews([a, b, c]).answers}["2"] is False
    assert [correction.new for correction in merged.corrections()] == [True, True, False]


def test_reviews_that_do_not_belong_together_are_refused(tmp_path):
    a = review_file(tmp_path / "a", "Ada", [("1", "true", 1)])
    with pytest.raises(FormatError, match="answers another sample"):
        merge_reviews([a, review_file(tmp_path / "b", "Bob", [], sample="other")])
    with pytest.raises(FormatError, match="two files are by the reviewer 'Ada'"):
        merge_reviews([a, review_file(tmp_path / "c", "Ada", [])])
    with pytest.raises(FormatError, match="damaged"):
        review_file(tmp_path / "d", "Di", [("1", "maybe", 1)])
    with pytest.raises(FormatError, match="damaged"):
        review_file(
            tmp_path / "e", "Ed", [], changes=[{"image": "1", "label": "cat", "old": "x", "new": 1, "when": ""}]
        )

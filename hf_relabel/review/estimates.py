"""What answers about a sample say of all added labels: precision with intervals, by range of scores and overall.

The precision of all labels is the Horvitz-Thompson estimate: each answer counts as often as its stratum has labels per
answer. Its interval is Wilson's with the effective sample size, the number of answers of a plain random sample with the
same variance (Franco, Little, Louis and Slud, "Comparative study of confidence intervals for proportions in complex
sample surveys", 2019). Labels without an answer, or with the answer "unsure", are taken to be like the others of their
stratum. No correction for a finite number of labels is made: answers may be wrong, so checking all labels does not make
the precision certain.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hf_relabel.review.answers import Answer
from hf_relabel.review.sample import Stratum

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% confidence interval, all in [0, 1]."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class RangeEstimate:
    """What is known of a range of scores.

    Args:
        low, high: The scores.
        labels: Added labels of the release in it.
        true, false, unsure: Number of answers.
        precision: Estimated share of true labels; None without a sure answer.
    """

    low: float
    high: float
    labels: int
    true: int
    false: int
    unsure: int
    precision: Interval | None


def wilson(true: float, answers: float) -> Interval:
    """Wilson's interval for a share of true answers, with both counts rounded to whole numbers."""
    total = max(1, round(answers))
    hits = min(total, round(true * total / answers))
    found = stats.binomtest(hits, total).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(true / answers), float(found.low), float(found.high))


def by_range(strata: Sequence[Stratum], answers: Sequence[Answer]) -> list[RangeEstimate]:
    """Estimate the precision in each stratum."""
    rows = []
    for number, stratum in enumerate(strata):
        own = [answer.is_true for answer in answers if answer.stratum == number]
        true, false = own.count(True), own.count(False)
        precision = wilson(true, true + false) if true + false else None
        rows.append(RangeEstimate(stratum.low, stratum.high, stratum.labels, true, false, own.count(None), precision))
    return rows


def weights_of(strata: Sequence[Stratum], answers: Sequence[Answer]) -> np.ndarray:
    """How many labels of the release each sure answer stands for; 0 for an unsure one: float64 [answers].

    The labels of a stratum without a sure answer count to the nearest stratum that has one.
    """
    sure = np.array([answer.is_true is not None for answer in answers], bool)
    of = np.array([answer.stratum for answer in answers], np.int64)
    counts = np.bincount(of[sure], minlength=len(strata)).astype(float)
    answered = np.flatnonzero(counts)
    labels = np.zeros(len(strata))
    for number, stratum in enumerate(strata):
        if len(answered):
            labels[answered[np.argmin(np.abs(answered - number))]] += stratum.labels
    return np.where(sure, (labels / np.maximum(counts, 1))[of], 0.0) if len(answers) else np.zeros(0)


def overall(strata: Sequence[Stratum], answers: Sequence[Answer]) -> Interval | None:
    """Estimate the precision of all added labels; None without a sure answer."""
    weights = weights_of(strata, answers)
    if not weights.any():
        return None
    true = np.array([answer.is_true is True for answer in answers])
    of = np.array([answer.stratum for answer in answers])
    share = float(weights[true].sum() / weights.sum())
    variance = 0.0
    for number in np.unique(of[weights > 0]):
        own = (of == number) & (weights > 0)
        count = int(own.sum())
        # A stratum whose few answers are all equal is not certain: one of each kind is added.
        chance = (int(true[own].sum()) + 1) / (count + 2)
        variance += (weights[own].sum() / weights.sum()) ** 2 * chance * (1 - chance) / count
    answered = int((weights > 0).sum())
    pooled = (share * answered + 1) / (answered + 2)
    effective = pooled * (1 - pooled) / variance
    return wilson(share * effective, effective)


def corrected(found: Interval, mistakes: float) -> Interval:
    """Correct an estimate for a known share of wrong answers, the same for true and false labels.

    A share p of true labels is seen as p (1 - e) + (1 - p) e (Rogan and Gladen, "Estimating prevalence from the results
    of a screening test", 1978).
    """

    def undone(value: float) -> float:
        return float(np.clip((value - mistakes) / (1 - 2 * mistakes), 0, 1))

    return Interval(undone(found.value), undone(found.low), undone(found.high))


def mistakes_of(agreement: float) -> float:
    """The share of wrong answers of two equally good reviewers who agree so often: a = (1 - e)^2 + e^2."""
    return float((1 - np.sqrt(max(0.0, 2 * agreement - 1))) / 2)

"""Scores as probabilities, without any truth: the given label is the probe.

An image's given label is one of the labels that are true of it. How a labeler's evidence for a class relates to the
chance that this class is the given one can be counted on the images themselves, as long as the labeler has not seen
them. Let p(x) be that chance at evidence x, and let a class that is truly present be the given one with some
propensity e, whatever the evidence (Elkan and Noto, "Learning classifiers from only positive and unlabeled data", KDD
2008). Then a class at evidence x is truly present with probability p(x) / e, and a class that is not the given one with

    P(true | x, not given) = p(x) (1 / e - 1) / (1 - p(x)),

cut to [0, `MAX_SCORE`]. p rises with x; it is fitted by centered isotonic regression (Oron and Flournoy, "Centered
isotonic regression", 2017) in log-odds. e is what p reaches for the surest evidence. Where nearly every sure class is
the given one, e is close to 1 and nothing is added: the images seem to have one label each.

A labeler that was trained on few images is often wrong even where it is surest. Its mistakes are not the given label
either, so the measured share is below e, and the formula would take the mistakes for missing labels. How far below is
read from the learning curve: heads fitted on half of the images are measured in the same way, the mistakes are taken to
fall with one over the number of images, and e is what the share tends to (`_still_to_learn`).

The propensity is not the same for all objects in practice: large and central ones are given more often. What is
reported as the precision of the added labels is therefore an estimate.
"""

import itertools
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.special import expit, logit

LIMIT = 18.0
"""Evidence is a log-odds, cut to [-LIMIT, LIMIT]: beyond it, every class is equally sure. An image without any region
has the lowest evidence."""

BIN = 0.02
"""Width of the bins in which evidence is counted, far below what a calibration can resolve."""

BINS = round(2 * LIMIT / BIN)

SUREST = 0.1
"""The propensity is measured on the surest pairs of image and class: all at the limit, at least this many per image."""

STANDARD_ERRORS = 1.0
"""Standard errors that are added to the measured propensity."""

MIN_LIFT = 5.0
"""How much more likely the surest pairs must be given ones than all pairs are, as a ratio of odds.

A labeler that cannot tell classes apart has surest pairs like all others, and by the formula above every class would
then be present in every image. A lift of 5 means that a class is present in at most a fifth of the images that are not
given it. Only classes that are given to some image are counted: others are never found, which says nothing about these.
"""

MAX_SCORE = 0.99
"""Highest score of a label that is not the given one: none is certain."""

MIN_IMAGES, MIN_GIVEN = 20, 20
"""Images, and given labels among the surest pairs, that a calibration needs; with fewer, no label is added.

A propensity of three pairs, on 30 photos of as many classes, added 58 labels; one of 16, on 60 photos, added 19 wrong
ones of 23."""

RELIABILITY_EDGES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass
class EvidenceCounts:
    """How often each value of the evidence occurred over pairs of image and class.

    Args:
        images: Number of images.
        given: Pairs whose class is the image's given label, by bin of evidence, int64 [BINS].
        other: The other pairs, int64 [BINS].
        labels: Classes that are the given label of some image.
    """

    images: int = 0
    given: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    other: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    labels: set[int] = field(default_factory=set)

    def add(self, evidence: np.ndarray, label: np.ndarray) -> None:
        """Count the evidence of images for all classes.

        Args:
            evidence: Log-odds, float [images, classes].
            label: Given labels, int64 [images].
        """
        bins = bin_of(evidence)
        of_given = bins[np.arange(len(label)), label]
        given = np.bincount(of_given, minlength=BINS)
        self.images += len(label)
        self.given += given
        self.other += np.bincount(bins.ravel(), minlength=BINS) - given
        self.labels.update(np.unique(label).tolist())

    def merge(self, counts: "EvidenceCounts") -> None:
        """Add what was counted on other images."""
        self.images += counts.images
        self.given += counts.given
        self.other += counts.other
        self.labels |= counts.labels


def bin_of(evidence: np.ndarray) -> np.ndarray:
    """The bin of each log-odds, int64 of the same shape."""
    return np.clip(((evidence + LIMIT) / BIN).astype(np.int64), 0, BINS - 1)


def _centers() -> np.ndarray:
    return (np.arange(BINS) + 0.5) * BIN - LIMIT


@dataclass(frozen=True)
class SmallerFit:
    """Evidence by heads that were fitted on a part of the images, as a point of the labeler's learning curve.

    Args:
        counts: What was counted on images that these heads have not seen; an image may be counted several times.
        share: Their number of training images, relative to the heads that are calibrated; in (0, 1).
    """

    counts: EvidenceCounts
    share: float


@dataclass(frozen=True)
class Calibration:
    """From evidence to the probability that a label is true.

    Args:
        knots: Evidence at the knots of p, ascending.
        log_odds: Log-odds of p at the knots, not falling; p is interpolated between them.
        propensity: e, the chance of a class that is present to be the given one, in (0, 1).
        lift: Odds of the surest pairs to be given ones, relative to a pair at random; below `MIN_LIFT` nothing is
            added.
        images: Images that it was measured on.
        observations: Pairs of image and class that the propensity was measured on.
        still_to_learn: What the learning curve adds to the share that was measured; part of `propensity`.
    """

    knots: list[float]
    log_odds: list[float]
    propensity: float
    lift: float
    images: int
    observations: int
    still_to_learn: float = 0.0

    @classmethod
    def fit(cls, counts: EvidenceCounts, smaller: SmallerFit | None = None) -> "Calibration | None":
        """Fit a calibration; None if there are too few images.

        Args:
            counts: What was counted on images that the labeler has not seen.
            smaller: The same by heads fitted on fewer images; None takes the labeler for fully trained.
        """
        if counts.images < MIN_IMAGES or not counts.given.any():
            return None
        surest = _surest(counts)
        if surest.hits < MIN_GIVEN:
            return None
        rest = _still_to_learn(surest, smaller)
        propensity = float(np.clip(surest.careful_share + rest, 1e-6, 1 - 1e-6))
        knots, chance, weight = _centered_isotonic(counts.given, counts.given + counts.other)
        # A block without a hit (or without a miss) is not certain: it may be half a pair away from one.
        chance = np.maximum.accumulate(np.clip(chance, 0.5 / weight, 1 - 0.5 / weight))
        lift = propensity / (1 - propensity) * (len(counts.labels) - 1)
        return cls(knots.tolist(), logit(chance).tolist(), propensity, lift, counts.images, surest.pairs, rest)

    def chance_of_given(self, evidence: np.ndarray) -> np.ndarray:
        """p: the chance that a class with this evidence is the given one, float of the same shape, at most e."""
        return np.minimum(expit(np.interp(evidence, self.knots, self.log_odds)), self.propensity)

    def of_given(self, evidence: np.ndarray) -> np.ndarray:
        """The probability that evidence for the given label shows a class that is present: p / e, in [0, 1]."""
        return self.chance_of_given(evidence) / self.propensity

    def of_other(self, evidence: np.ndarray) -> np.ndarray:
        """The probability that a class other than the given one is true, up to `MAX_SCORE`; of the evidence's shape."""
        if self.lift < MIN_LIFT:
            return np.zeros(np.shape(evidence))
        chance = self.chance_of_given(evidence)
        return np.clip(chance * (1 / self.propensity - 1) / (1 - chance), 0, MAX_SCORE)

    def to_json(self) -> dict[str, Any]:
        """Plain values, which `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Calibration":
        """The calibration that `to_json` described."""
        return cls(**value)


def _centered_isotonic(hits: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Isotonic share of hits by bin: centers of its blocks, the share in each, and the number of pairs in each."""
    from sklearn.isotonic import isotonic_regression

    used = np.flatnonzero(total)
    share = isotonic_regression(hits[used] / total[used], sample_weight=total[used], y_min=0, y_max=1)
    _, block = np.unique(share, return_inverse=True)
    weight = np.bincount(block, weights=total[used])
    center = np.bincount(block, weights=total[used] * _centers()[used]) / weight
    return center, np.bincount(block, weights=hits[used]) / weight, weight


@dataclass(frozen=True)
class _Surest:
    """The surest pairs of image and class.

    Args:
        hits: Given labels among them; not whole where only a part of a bin is among them.
        pairs: Their number.
    """

    hits: float
    pairs: int

    @property
    def share(self) -> float:
        """Share of given labels."""
        return self.hits / self.pairs

    @property
    def careful_share(self) -> float:
        """The share plus standard errors: too high a propensity adds fewer labels, too low a one adds wrong labels."""
        share = (self.hits + 1) / (self.pairs + 2)  # Laplace's estimate, which is never 0 or 1
        return self.share + STANDARD_ERRORS * float(np.sqrt(share * (1 - share) / self.pairs))


def _surest(counts: EvidenceCounts) -> _Surest:
    given, total = counts.given[::-1].cumsum(), (counts.given + counts.other)[::-1].cumsum()
    wanted = max(1, round(SUREST * counts.images), int(total[0]))
    end = int(np.searchsorted(total, wanted))
    # Of the last bin, only as many pairs as are wanted, in its own mixture.
    before = np.array([given[end - 1], total[end - 1]]) if end else np.zeros(2)
    within = np.array([given[end], total[end]]) - before
    hits = before[0] + within[0] * (wanted - before[1]) / within[1]
    return _Surest(float(hits), wanted)


def _still_to_learn(surest: _Surest, smaller: SmallerFit | None) -> float:
    """How far the share of given labels is below what it tends to with more training images; at least 0.

    With n images the share is e - c / n, with s n images it is e - c / (s n); the difference gives c / n.
    """
    if smaller is None:
        return 0.0
    difference = surest.share - _surest(smaller.counts).share
    return max(0.0, difference * smaller.share / (1 - smaller.share))


@dataclass(frozen=True)
class Estimate:
    """What a calibration expects of the labels that are added at a threshold; all estimates, not measurements.

    Args:
        added: Number of labels at or above the threshold.
        true: Expected number of true ones among them.
    """

    added: int
    true: float

    @property
    def precision(self) -> float | None:
        """Expected share of true labels among the added; None where none is added."""
        return self.true / self.added if self.added else None

    @property
    def gain(self) -> float:
        """Expected number of true labels minus that of false ones."""
        return 2 * self.true - self.added


def estimate(calibration: Calibration, counts: EvidenceCounts, threshold: float) -> Estimate:
    """Estimate the labels that a threshold adds on the counted images."""
    probability = calibration.of_other(_centers())
    above = probability >= threshold
    added = counts.other[above]
    return Estimate(int(added.sum()), float((added * probability[above]).sum()))


def reliability(calibration: Calibration, counts: EvidenceCounts) -> list[dict[str, Any]]:
    """Tabulate the scores of labels that are not the given one.

    Returns:
        One row per range of scores: `low`, `high`, `labels` in the range, their mean `score`, and `given`, the number
        of given labels with evidence in the range, which the scores rest on.
    """
    probability = calibration.of_other(_centers())
    rows = []
    for low, high in itertools.pairwise(RELIABILITY_EDGES):
        inside = (probability >= low) & ((probability < high) | (high == RELIABILITY_EDGES[-1]))
        labels = int(counts.other[inside].sum())
        score = float((counts.other[inside] * probability[inside]).sum() / labels) if labels else None
        rows.append(
            {"low": low, "high": high, "labels": labels, "score": score, "given": int(counts.given[inside].sum())}
        )
    return rows

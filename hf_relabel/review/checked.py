"""`checked.json`: what a review found, for builds and cards: precision, a recalibration of the scores, thresholds.

It has numbers only: no image, no name of a person.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_relabel.errors import FormatError
from hf_relabel.labeling.image_labels import threshold_for
from hf_relabel.release.reader import Release
from hf_relabel.review.answers import Review
from hf_relabel.review.estimates import Interval, RangeEstimate, by_range, corrected, overall, weights_of
from hf_relabel.review.recalibration import Recalibration
from hf_relabel.review.sample import added_labels
from hf_relabel.run.store import read_json, write_json

CHECKED = "checked.json"

WANTED = (0.7, 0.8, 0.9, 0.95)
"""Precisions for which thresholds are given."""


@dataclass(frozen=True)
class Checked:
    """What a review found.

    Args:
        release: Name, version and manifest hash of the reviewed release.
        labeler: SHA-256 of the weights of its labeler; None if the release does not record it.
        threshold: Its threshold for added labels; None if it does not record one.
        labels: Number of its added labels.
        true, false, unsure: Number of answers.
        reviewers: Number of people.
        precision: Share of true labels among all added ones, before any correction; None without a sure answer.
        ranges: The same by range of scores.
        recalibration: Correction of the scores.
        thresholds: By wanted precision, the lowest threshold that is expected to reach it, on the present scores; None
            if none does. No label below the reviewed release's own threshold was checked.
        mistakes: Share of wrong answers that the precision is corrected for.
        agreement: Pairs of answers about the same label, equal ones, and Cohen's kappa; None with one reviewer.
    """

    release: dict[str, str]
    labeler: str | None
    threshold: float | None
    labels: int
    true: int
    false: int
    unsure: int
    reviewers: int
    precision: Interval | None
    ranges: list[RangeEstimate]
    recalibration: Recalibration
    thresholds: dict[str, float | None]
    mistakes: float
    agreement: dict[str, Any] | None

    @property
    def answers(self) -> int:
        """Number of answers that are not unsure."""
        return self.true + self.false

    def save(self, path: Path) -> None:
        """Write the file."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Checked":
        """Read the file.

        Raises:
            FormatError: It is missing or damaged.
        """
        value = read_json(path)
        if value is None:
            raise FormatError(f"{path}: no such file; `hf-relabel review RELEASE --answers review.json` writes it")
        try:
            precision = value.pop("precision")
            ranges = [
                RangeEstimate(**{**row, "precision": Interval(**row["precision"]) if row["precision"] else None})
                for row in value.pop("ranges")
            ]
            recalibration = Recalibration.from_json(value.pop("recalibration"))
            found = Interval(**precision) if precision else None
            return cls(precision=found, ranges=ranges, recalibration=recalibration, **value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(
                f"{path}: damaged ({error}); run `hf-relabel review RELEASE --answers review.json` again"
            ) from error

    def for_provenance(self) -> dict[str, Any]:
        """What the manifest of a later release says about it."""
        return {
            "version": self.release["version"],
            "threshold": self.threshold,
            "labels": self.answers,
            "unsure": self.unsure,
            "reviewers": self.reviewers,
            "mistakes": self.mistakes,
            "precision": asdict(self.precision) if self.precision else None,
        }


def check(release: Release, review: Review, mistakes: float = 0.0) -> Checked:
    """Estimate what a review says about the release it was made from.

    Args:
        release: The release.
        review: The answers.
        mistakes: Share of wrong answers to correct the precision for, below one half.
    """
    answers = review.answers
    weights = weights_of(review.strata, answers)
    is_true = np.array([answer.is_true is True for answer in answers], bool)
    scores = np.array([answer.score for answer in answers], np.float64)
    recalibration = Recalibration.fit(scores, is_true, weights)
    added = added_labels(release)
    decided = [answer.is_true for answer in answers]
    provenance = release.provenance
    precision = overall(review.strata, answers)
    return Checked(
        release=review.release,
        labeler=(provenance.get("labeler") or {}).get("weights_sha256"),
        threshold=(provenance.get("scores") or {}).get("threshold"),
        labels=len(added),
        true=decided.count(True),
        false=decided.count(False),
        unsure=decided.count(None),
        reviewers=review.reviewers,
        precision=corrected(precision, mistakes) if precision else None,
        ranges=by_range(review.strata, answers),
        recalibration=recalibration,
        thresholds={f"{wanted:g}": threshold_of(wanted, added.scores, recalibration) for wanted in WANTED},
        mistakes=mistakes,
        agreement=asdict(review.agreement) if review.agreement else None,
    )


def threshold_of(precision: float, scores: np.ndarray, recalibration: Recalibration) -> float | None:
    """The lowest present score at which the labels from there on are expected to have a precision; None if none is."""
    moved = recalibration.apply(scores)
    reached = moved >= threshold_for(precision, moved)
    return float(scores[reached].min()) if reached.any() else None

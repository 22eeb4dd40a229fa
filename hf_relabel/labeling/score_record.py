"""What a release says about its scores: `provenance.scores` of its manifest.

    calibrated    whether scores are estimated probabilities; otherwise they are the labeler's softmax scores
    head, folds, background    the labeler: kind of head, number of cross-fitting folds, background class or not
    evidence      kind of evidence behind the scores (`labeling/evidence.py`)
    propensity    estimated chance of a class that an image shows to be its given label
    still_to_learn    part of the propensity: what the labeler would name right with more images, by its learning curve
    images, observations    images of the calibration, and pairs of image and class that the propensity was measured on
    reliability   labels other than the given ones by score, as the calibration counted them, listed or not
    threshold     minimum score of a listed label; null if no threshold reaches `build.precision`
    added         the listed labels that are not given ones: their number, the expected number of true ones, and the
                  expected share of true ones (`precision`)
    note          why no label was added; null if some were

Without calibration, only the first two lines, `threshold`, `added.labels` and `note` have values. `propensity`,
`reliability` and `added` are estimates, not measurements: they rest on the given labels, not on any truth.
"""

from dataclasses import dataclass
from typing import Any

from hf_relabel.labeling.calibration import MIN_GIVEN, MIN_IMAGES
from hf_relabel.labeling.image_labels import LabelRule
from hf_relabel.labeling.labeler import ImageScores


@dataclass
class AddedLabels:
    """The labels of a release that are not given ones, counted while its rows are made.

    Args:
        labels: Their number.
        score_sum: Sum of their scores.
    """

    labels: int = 0
    score_sum: float = 0.0

    def add(self, label: int, labels: list[tuple[int, float]]) -> None:
        """Count the labels of an image, as pairs of class and score, except the given one."""
        for name, score in labels:
            if name != label:
                self.labels += 1
                self.score_sum += score


def score_record(training: dict[str, Any], rule: LabelRule, added: AddedLabels) -> dict[str, Any]:
    """Describe the scores of a release; the keys are those of the module's description.

    Args:
        training: The training record of the labeler.
        rule: The rule by which labels were listed.
        added: The added labels of the release.
    """
    scores = ImageScores.from_json(training["scores"])
    calibration = scores.calibration if rule.config.calibrated else None
    estimated = calibration is not None and added.labels > 0
    return {
        "calibrated": rule.config.calibrated,
        "head": training["head"],
        "folds": training["folds"],
        "background": training["inputs"]["train"]["background"],
        "evidence": scores.evidence if calibration else None,
        "propensity": calibration.propensity if calibration else None,
        "still_to_learn": calibration.still_to_learn if calibration else None,
        "images": calibration.images if calibration else None,
        "observations": calibration.observations if calibration else None,
        "reliability": scores.estimates[scores.evidence]["reliability"] if calibration else [],
        "threshold": rule.threshold if rule.threshold <= 1 else None,
        "added": {
            "labels": added.labels,
            "true": added.score_sum if estimated else None,
            "precision": added.score_sum / added.labels if estimated else None,
        },
        "note": None if added.labels else _why_nothing(training["folds"], scores, rule),
    }


def _why_nothing(folds: int, scores: ImageScores, rule: LabelRule) -> str:
    """Why no label was added, in one line."""
    if rule.config.calibrated and not folds:
        reason = "the labeler has no cross-fitting folds (train.folds 0), so its scores could not be calibrated"
    elif rule.config.calibrated and scores.calibration is None:
        needed = f"at least {MIN_IMAGES} are needed, with {MIN_GIVEN} original labels that the labeler is sure of"
        reason = f"too few images to calibrate scores on: {needed}"
    elif rule.config.calibrated and not scores.adds:
        expected = scores.estimates[scores.evidence]
        reason = (
            f"the estimated gain is too small ({expected['added']} labels would be added, {expected['true']:.0f} of "
            "them true by estimate); a stronger backbone or more images may help"
        )
    elif rule.threshold > 1:
        reason = f"no threshold reaches an estimated precision of {rule.config.precision} (build.precision)"
    else:
        reason = f"none has a score of at least {rule.threshold:g}"
    return f"no label was added: {reason}"

"""Better scores from checked labels: the truth-free calibration, corrected as far as the answers demand.

With s the present score and y the answers, the new score is

    s' = expit(a + exp(c) logit(s)),

where a and c maximize the log-likelihood of the answers, each weighted by the labels it stands for (scaled to a mean of
1), plus the logarithm of the prior a ~ N(0, `SD_INTERCEPT`^2), c ~ N(0, `SD_SLOPE`^2). This is Platt's scaling
("Probabilistic outputs for support vector machines", 1999), or Cox's recalibration by intercept and slope ("Two further
applications of a model for binary regression", Biometrika 1958), of scores that are probabilities already, shrunk to no
change: without answers a = c = 0, and many answers outweigh the prior. It never changes the order of scores.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

SD_INTERCEPT, SD_SLOPE = 1.5, 0.5
"""How far off the truth-free calibration is expected to be: a factor of 4.5 in the odds and of 1.6 in the slope."""

CLIP = 1e-6


@dataclass(frozen=True)
class Recalibration:
    """A correction of scores.

    Args:
        intercept: a.
        log_slope: c.
        answers: Number of answers that it was fitted to.
    """

    intercept: float
    log_slope: float
    answers: int

    @classmethod
    def fit(cls, scores: np.ndarray, is_true: np.ndarray, weights: np.ndarray) -> "Recalibration":
        """Fit the correction.

        Args:
            scores: Present scores, float [n].
            is_true: Answers, bool [n].
            weights: Labels that each answer stands for, float [n]; 0 leaves it out.
        """
        used = weights > 0
        if not used.any():
            return cls(0.0, 0.0, 0)
        x, sign = logit(np.clip(scores[used], CLIP, 1 - CLIP)), np.where(is_true[used], 1.0, -1.0)
        weight = weights[used] / weights[used].mean()

        def loss(parameters: np.ndarray) -> float:
            intercept, log_slope = parameters
            errors = np.logaddexp(0, -sign * (intercept + np.exp(log_slope) * x))
            prior = (intercept / SD_INTERCEPT) ** 2 + (log_slope / SD_SLOPE) ** 2
            return float((weight * errors).sum() + prior / 2)

        found = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=[(-8, 8), (-3, 3)])
        return cls(float(found.x[0]), float(found.x[1]), int(used.sum()))

    def apply(self, scores: np.ndarray | float) -> np.ndarray:
        """The corrected scores, float of the same shape; 0 stays 0."""
        scores = np.asarray(scores, np.float64)
        moved = expit(self.intercept + np.exp(self.log_slope) * logit(np.clip(scores, CLIP, 1 - CLIP)))
        return np.where(scores > 0, moved, 0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain values, which `from_json` reads."""
        return {"intercept": self.intercept, "log_slope": self.log_slope, "answers": self.answers}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Recalibration":
        """The correction that `to_json` described."""
        return cls(float(value["intercept"]), float(value["log_slope"]), int(value["answers"]))

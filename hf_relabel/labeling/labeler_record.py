"""The typed check of a labeler's `config.json`; a labeler may come from anyone."""

from collections.abc import Callable
from typing import Any

from hf_relabel.config.checks import is_line
from hf_relabel.labeling.evidence import EVIDENCE

MAX_WIDTH = 2**20
"""Features, outputs or hidden values of a head."""

MAX_HEADS = 10_000
MAX_LAYERS = 256

MAX_SIDE = 8192
"""Side in pixels of the images that a backbone reads."""

Check = Callable[[Any], bool]


def find_damage(record: dict[str, Any]) -> str | None:
    """Say what is wrong with a labeler's record, as `key: must be ...`; None if it has the types that readers rely on.

    Args:
        record: Content of `config.json`.
    """
    for key, (check, rule) in _CHECKS.items():
        value: Any = record
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not check(value):
            return f"{key}: must be {rule}, got {ascii(value)[:60]}"
    classes, outputs = len(record["class_names"]), record["head"]["outputs"]
    if outputs not in (classes, classes + 1):
        return f"head.outputs: is {outputs}, but there are {classes} classes"
    calibration = record["scores"]["calibration"]
    return None if calibration is None else _calibration_damage(calibration)


def _calibration_damage(calibration: dict[str, Any]) -> str | None:
    keys = {"knots", "log_odds", "propensity", "lift", "images", "observations", "still_to_learn"}
    knots, log_odds = calibration.get("knots"), calibration.get("log_odds")
    are_lists = isinstance(knots, list) and isinstance(log_odds, list) and 0 < len(knots) == len(log_odds)
    numbers = [*knots, *log_odds] if are_lists else [None]  # type: ignore[misc]
    numbers += [calibration.get(key, 0.0 if key == "still_to_learn" else None) for key in keys - {"knots", "log_odds"}]
    is_valid = calibration.keys() <= keys and all(map(_is_number, numbers)) and 0 < calibration["propensity"] < 1
    return None if is_valid and knots == sorted(knots or []) else "scores.calibration: is not a calibration"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**64


def _count(least: int, most: int) -> tuple[Check, str]:
    def check(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    return check, f"a whole number from {least:,} to {most:,}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and is_line(value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value)) and len(set(value)) == len(value)


_CHECKS: dict[str, tuple[Check, str]] = {
    "head.head": (lambda value: value in ("discriminant", "linear", "mlp"), "discriminant, linear or mlp"),
    "head.features": _count(1, MAX_WIDTH),
    "head.outputs": _count(1, MAX_WIDTH),
    "head.hidden": _count(1, MAX_WIDTH),
    "head.layers": _count(0, MAX_LAYERS),
    "head.dropout": (lambda value: _is_number(value) and 0 <= value < 1, "a number from 0 to below 1"),
    "head": (lambda value: len(value) == 6, "an object of 6 values"),
    "heads": _count(1, MAX_HEADS),
    "class_names": (_are_names, "a list of names that differ"),
    "scores.evidence": (lambda value: isinstance(value, str) and value in EVIDENCE, f"one of {', '.join(EVIDENCE)}"),
    "scores.calibration": (lambda value: value is None or isinstance(value, dict), "an object or null"),
    "scores.adds": (lambda value: isinstance(value, bool), "true or false"),
    "scores.estimates": (lambda value: isinstance(value, dict), "an object"),
    "seed": _count(0, 2**64),
    "backbone": (lambda value: isinstance(value, dict), "an object"),
    "backbone.model": (_is_text, "a name"),
    "backbone.image_size": (lambda value: value is None or _count(1, MAX_SIDE)[0](value), f"at most {MAX_SIDE}"),
    "backbone.revision": (lambda value: value is None or _is_text(value), "text or null"),
    "backbone.weights_sha256": (lambda value: value is None or _is_text(value), "text or null"),
    "backbone.dtype": (lambda value: value is None or _is_text(value), "text or null"),
    "training": (lambda value: isinstance(value, dict), "an object"),
    "training.digest": (_is_text, "a hash"),
    "weights_sha256": (_is_text, "a hash"),
}
"""The values that are read, by their place, in the order of the checks."""

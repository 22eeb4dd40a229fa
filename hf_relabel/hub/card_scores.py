"""What a dataset card says about proposals and scores, from the provenance of a release.

A release may come from anyone, so every value is escaped here, and one that is not of the expected type is shown as
text.
"""

from typing import Any

from hf_relabel.release.markdown import escape

GENERATORS = {"maskcut": "MaskCut", "merge": "merging similar patches", "file": "a file of masks"}
"""Descriptions of the generators of proposals."""

EVIDENCE = {
    "object": "the surest single proposal for an object",
    "agreement": "agreement of several proposals and windows",
}
"""Descriptions of the kinds of evidence that scores are made from."""


def generators_of(provenance: dict[str, Any]) -> list[str]:
    """The generators of a release's proposals, as `schema.GENERATORS` names them; empty if they are not recorded."""
    propose = _dictionary(_dictionary(provenance.get("config")).get("propose"))
    if propose.get("masks"):
        return ["file"]
    # Releases that do not record generators are from before there was a choice.
    found = propose.get("generators", ["maskcut"] if propose else [])
    return [str(name) for name in found] if isinstance(found, list) else []


def score_values(provenance: dict[str, Any]) -> dict[str, Any]:
    """The values of the card's template that concern proposals and scores; text is escaped.

    Returns:
        generators: The generators of the proposals, in one phrase; empty if unknown.
        uses_maskcut: Whether MaskCut is one of them.
        scores: None if the release does not record how its scores were made, else `calibrated` (scores are estimated
            probabilities), `background`, `folds`, `propensity`, `note`, `rows` (a table of what is known about them)
            and `reliability` (rows of the reliability table).
    """
    found = generators_of(provenance)
    named = [GENERATORS.get(name) or escape(name) for name in found]
    record = _dictionary(provenance.get("scores"))
    return {
        "generators": " and ".join(filter(None, [", ".join(named[:-1]), *named[-1:]])),
        "uses_maskcut": "maskcut" in found,
        "scores": _scores(provenance, record) if record else None,
    }


def checked_values(provenance: dict[str, Any]) -> dict[str, Any]:
    """The values of the card's template that concern checks by hand; text is escaped.

    Returns:
        checked: A sentence on the precision that a review found; None without a review.
        corrections: A sentence on the corrections; None without any.
        recalibrated: Whether the scores were corrected by a review.
    """
    checked, corrections = _dictionary(provenance.get("checked")), _dictionary(provenance.get("corrections"))
    return {
        "checked": _checked(checked) if checked.get("precision") else None,
        "corrections": _corrections(corrections) if corrections else None,
        "recalibrated": bool(_dictionary(_dictionary(provenance.get("config")).get("build")).get("recalibrate")),
    }


def _checked(record: dict[str, Any]) -> str:
    found = _dictionary(record["precision"])
    low, high = _number(found.get("low"), ".1%"), _number(found.get("high"), ".1%")
    threshold = record.get("threshold")
    of = f" (threshold {_number(threshold, 'g')})" if threshold is not None else ""
    text = (
        f"Checked by hand: {_number(record.get('labels'))} labels, precision {_number(found.get('value'), '.1%')} "
        f"[{low}, {high}]. They are a random sample, stratified by score, of the labels that version "
        f"{escape(record.get('version'))}{of} added; the interval has 95% confidence."
    )
    if record.get("unsure"):
        text += f" For {_number(record['unsure'])} more, the answer was unsure."
    if record.get("mistakes"):
        text += f" The precision is corrected for {_number(record['mistakes'], '.1%')} wrong answers."
    return text


def _corrections(record: dict[str, Any]) -> str:
    return (
        f"Corrected by hand: {_number(record.get('labels'))} labels were checked (images: "
        f"{_number(record.get('images'))}), which added {_number(record.get('labels_added'))} labels and removed "
        f"{_number(record.get('labels_removed'))}; {_number(record.get('regions'))} regions were given another class "
        "or removed. Labels that were found to be true have the score 1."
    )


def _scores(provenance: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    build = _dictionary(_dictionary(provenance.get("config")).get("build"))
    added = _dictionary(record.get("added"))
    folds, background = record.get("folds"), bool(record.get("background"))
    measured = record.get("propensity") is not None
    labeler = [escape(record.get("head"))]
    labeler.append(f"{_number(folds)} cross-fitting folds" if folds else "no cross-fitting")
    labeler.append("with a background class" if background else "without a background class")
    rows = [("labeler", ", ".join(labeler))]
    if measured:
        evidence = str(record.get("evidence"))
        pairs, images = _number(record.get("observations")), _number(record.get("images"))
        # Releases of earlier versions do not have it.
        learning = _number(record.get("still_to_learn") or 0, ".2f")
        curve = "" if learning == "0.00" else f"; {learning} of it by the learning curve"
        rows += [
            ("evidence", EVIDENCE.get(evidence) or escape(evidence)),
            (
                "propensity",
                f"{_number(record['propensity'], '.2f')}, from {pairs} sure labels in {images} images{curve}",
            ),
        ]
    rows.append(("threshold for added labels", _threshold(record, build)))
    for key, value in _dictionary(build.get("class_thresholds")).items():
        rows.append((f"threshold for {escape(key)}", _number(value, "g")))
    if isinstance(excluded := build.get("exclude_classes"), list) and excluded:
        rows.append(("classes never added", escape(", ".join(map(str, excluded)))))
    rows.append(("added labels", _number(added.get("labels"))))
    if added.get("precision") is not None:
        rows.append(("of them true, by estimate", _number(added.get("true"), ",.0f")))
        rows.append(("precision of the added labels, by estimate", _number(added["precision"], ".1%")))
    found = record.get("reliability")
    return {
        "calibrated": bool(record.get("calibrated")),
        "background": background,
        "folds": _number(folds),
        "propensity": _number(record["propensity"], ".2f") if measured else None,
        "note": escape(record["note"]) if record.get("note") else None,
        "rows": rows,
        "reliability": [
            (
                f"{_number(row.get('low'), '.2f')} to {_number(row.get('high'), '.2f')}",
                _number(row.get("labels")),
                _number(row.get("score"), ".2f"),
                _number(row.get("given")),
            )
            for row in map(_dictionary, found if isinstance(found, list) else [])
            if row.get("labels")
        ],
    }


def _threshold(record: dict[str, Any], build: dict[str, Any]) -> str:
    wanted = build.get("precision")
    if wanted is None:
        return _number(record.get("threshold"), "g")
    aim = f"an estimated precision of {_number(wanted, 'g')}"
    if record.get("threshold") is None:
        return f"none reaches {aim}"
    return f"{_number(record['threshold'], '.3f')}, the lowest for {aim}"


def _dictionary(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any, form: str = ",") -> str:
    """A number in a format; anything else as escaped text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return format(value, form) if is_number else escape(value)

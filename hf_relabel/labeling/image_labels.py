"""The labels of an image and the regions that show them, from what the label stage stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_relabel.config import BuildConfig
from hf_relabel.schema import NO_LABEL
from hf_relabel.vision import masks

ROUNDING = 1e-6
"""Scores are stored as float32."""

SAME_OBJECT = 0.5
"""Of two regions with the same label that share more of the smaller one than this, only the first is released."""


@dataclass(frozen=True)
class LabelRule:
    """Which labels are listed for an image.

    Args:
        threshold: Smallest score of a label.
        of_class: Thresholds of single classes, by class.
        excluded: Classes that are never added.
        config: Settings of the build stage.
        ancestors: For a class the classes above it, of which an image does not list both.
    """

    threshold: float
    of_class: Mapping[int, float]
    excluded: frozenset[int]
    config: BuildConfig
    ancestors: Mapping[int, frozenset[int]] = field(default_factory=dict)

    def accepts(self, label: int, score: float) -> bool:
        """Whether a label other than the given one is listed."""
        return label not in self.excluded and score >= self.of_class.get(label, self.threshold)


def image_labels(label: int, labeled: dict[str, Any], rule: LabelRule) -> list[tuple[int, float]]:
    """Choose an image's labels, highest score first; of equal scores the given one, then the lower class comes first.

    Args:
        label: The given label, or NO_LABEL. It is listed with score 1 (`build.include_original`), as it is taken for
            true; without that setting, it is listed like any other label.
        labeled: The image's row of `schema.REGIONS`.
        rule: Which labels are listed.
    """
    if rule.config.calibrated:
        scores = calibrated_scores(labeled)
        if labeled["label_score"] is not None:
            scores[label] = labeled["label_score"]
    else:
        scores = raw_scores(labeled, rule.config.include_global)
    kept = {name: score for name, score in scores.items() if rule.accepts(name, score)}
    if rule.config.include_original and label != NO_LABEL:
        kept[label] = 1.0
    for name in _conflicting(kept, label, rule.ancestors):
        del kept[name]
    return sorted(kept.items(), key=lambda item: (-item[1], item[0] != label, item[0]))


def _conflicting(kept: Mapping[int, float], given: int, ancestors: Mapping[int, frozenset[int]]) -> set[int]:
    """The labels that stand for the same object as another one: ancestors, and descendants of the given label."""
    dropped = {name for label in kept for name in ancestors.get(label, ()) if name in kept and name != given}
    if given in kept:
        dropped |= {label for label in kept if given in ancestors.get(label, ())}
    return dropped


def calibrated_scores(labeled: dict[str, Any]) -> dict[int, float]:
    """The probability of each stored label other than the given one, by class."""
    return {item["label"]: item["score"] for item in labeled["labels"] if item["score"] is not None}


def raw_scores(labeled: dict[str, Any], include_global: bool) -> dict[int, float]:
    """The highest softmax score of each class over the proposals (arXiv 2603.05729, section 3)."""
    highest: dict[int, float] = {}
    sources = [(region["top_labels"], region["top_scores"]) for region in labeled["proposals"]]
    if include_global:
        sources.append((labeled["global_labels"], labeled["global_scores"]))
    for labels, scores in sources:
        for name, score in zip(labels, scores, strict=True):
            highest[name] = max(score, highest.get(name, 0.0))
    return highest


def image_regions(
    image: dict[str, Any],
    labeled: dict[str, Any],
    labels: Sequence[tuple[int, float]],
    rule: LabelRule,
    moved: Mapping[tuple[int, int], int | None] | None = None,
) -> list[dict[str, Any]]:
    """Choose the regions that are released with an image, each with its mask at the image's size.

    Every label that a proposal supports has a region: the proposal that shows it best. Further proposals are released
    if they are sure of their class (`build.region_score`) and not another view of the same object.

    Args:
        image: The image's row of `schema.PROPOSALS`.
        labeled: Its row of `schema.REGIONS`.
        labels: Its labels with their scores.
        rule: Which labels are listed.
        moved: The right class of a region, by its proposal's number and the class that it would have; None if it shows
            no object. Such a region is released whether or not it would be otherwise.

    Returns:
        Rows of the release's column `regions`, in the order of the proposals.
    """
    if not image["proposals"]:
        return []
    grid = masks.unpack([proposal["grid_mask"] for proposal in image["proposals"]], tuple(image["grid"]))
    config = rule.config
    if config.calibrated:
        supported = {item["label"]: item["proposal"] for item in labeled["labels"]}
    else:
        supported = _highest_proposals(labeled)
    carried = [(supported[label], label) for label, _ in labels if supported.get(label, -1) >= 0]
    chosen = list(carried)
    sure = [
        (number, region["top_labels"][0])
        for number, region in enumerate(labeled["proposals"])
        if region["top_scores"][0] >= config.region_score and region["top_labels"][0] not in rule.excluded
    ]
    # Proposals of whole objects come before the merged regions, which often are parts of them.
    sure.sort(
        key=lambda item: (
            image["proposals"][item[0]]["generator"] == "merge",
            -labeled["proposals"][item[0]]["top_scores"][0],
        )
    )
    for number, label in sure:
        overlaps = (overlap(grid[number], grid[other]) > SAME_OBJECT for other, name in chosen if name == label)
        if not any(overlaps):
            chosen.append((number, label))
    if moved:
        right = [(number, label) for (number, _), label in moved.items() if label is not None and number < len(grid)]
        chosen = list(dict.fromkeys([*(pair for pair in chosen if pair not in moved), *right]))
    own = labeled["label_score"]  # the given label is listed with 1, but its region has what the region is worth
    scores = calibrated_scores(labeled) | {image["label"]: 1.0 if own is None else own}
    seen: set[int] = set()
    rows = []
    for number, label in sorted(chosen, key=lambda item: item[0]):
        region, proposal = labeled["proposals"][number], image["proposals"][number]
        name = proposal["proposal_id"] if number not in seen else f"{proposal['proposal_id']}:{label}"
        seen.add(number)
        raw = dict(zip(region["top_labels"], region["top_scores"], strict=True))
        score = (scores if config.calibrated else raw).get(label, 0.0)
        rows.append(_region(name, label, score, region, proposal, grid[number], (image["width"], image["height"])))
    return rows


def _highest_proposals(labeled: dict[str, Any]) -> dict[int, int]:
    """The number of the proposal with the highest softmax score of each class that is stored for one."""
    best: dict[int, tuple[float, int]] = {}
    for number, region in enumerate(labeled["proposals"]):
        for name, score in zip(region["top_labels"], region["top_scores"], strict=True):
            if name not in best or score > best[name][0]:
                best[name] = (score, number)
    return {name: number for name, (_, number) in best.items()}


def _region(
    name: str,
    label: int,
    score: float,
    region: dict[str, Any],
    proposal: dict[str, Any],
    on_grid: np.ndarray,
    size: tuple[int, int],
) -> dict[str, Any]:
    stored = proposal["segmentation"]
    exact = stored is not None and stored["counts"] is not None
    mask = masks.decode(stored) if exact else masks.to_image(on_grid, size)
    return {
        "region_id": name,
        "label": label,
        "score": score,
        "top_labels": region["top_labels"],
        "top_scores": region["top_scores"],
        "bbox": masks.bbox(mask),
        "area": masks.area(mask),
        "generator": proposal["generator"],
        "segmentation": stored if exact else masks.encode(mask),
    }


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """The share of the smaller of two masks, bool [h, w], that both have; neither is empty."""
    return float(np.count_nonzero(a & b) / min(np.count_nonzero(a), np.count_nonzero(b)))


def threshold_for(precision: float, scores: np.ndarray) -> float:
    """The smallest threshold at which the labels above it are expected to have a precision.

    Args:
        precision: Wanted share of true labels, in (0, 1].
        scores: Calibrated scores of all labels that are not given ones, float [n].

    Returns:
        The threshold; above 1 if no threshold is expected to reach it.
    """
    falling = np.sort(scores)[::-1].astype(np.float64)
    means = np.cumsum(falling) / np.arange(1, len(falling) + 1)
    is_last = np.append(falling[1:] < falling[:-1], True)[: len(falling)]  # a threshold takes all equal scores
    reached = np.flatnonzero(is_last & (means >= precision - ROUNDING))
    return float(falling[reached[-1]]) if len(reached) else 1.1

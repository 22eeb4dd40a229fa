"""What a run knows about its images beyond the release: what regions trained as, windows, and labels not listed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_relabel.labeling.image_labels import calibrated_scores
from hf_relabel.release.reader import Release
from hf_relabel.release.versions import run_of
from hf_relabel.run.shard_folder import MANIFEST, ShardFolder
from hf_relabel.run.store import Fingerprint, read_record
from hf_relabel.schema import TARGET_BACKGROUND, TARGET_NOTHING

SCORE_COLUMNS = [
    "image_id",
    *(f"proposals.list.element.{part}" for part in ("proposal_id", "target", "reason")),
    *(f"windows.list.element.{part}" for part in ("target", "reason")),
]
REGION_COLUMNS = [
    "image_id",
    *(f"labels.list.element.{part}" for part in ("label", "score", "proposal")),
    *(f"windows.list.element.{part}" for part in ("top_labels", "top_scores")),
]


@dataclass(frozen=True)
class ImageDetails:
    """What a run knows about one image.

    Args:
        trained: What each proposal trained as and why, by proposal id: (class, -1 for nothing or -2 for background;
            reason).
        windows: Of each window, row by row: its best class (-1 if none) and score, and what it trained as and why.
        candidates: Probability of each label that is not the given one, listed or not, by class.
    """

    trained: dict[str, tuple[int, str]] = field(default_factory=dict)
    windows: list[tuple[int, float, int, str]] = field(default_factory=list)
    candidates: dict[int, float] = field(default_factory=dict)


def read_details(release: Release) -> Iterator[tuple[str, ImageDetails]] | None:
    """Iterate over the images of the run that a release lies in, with what the run knows about them.

    Returns:
        None if the release does not lie in the folder of its run, or that run has been made anew since.
    """
    run = run_of(release)
    labeled = read_record(run / "regions" / MANIFEST) if (run / "regions").is_dir() else None
    scored = read_record(run / "scores" / MANIFEST) if (run / "scores").is_dir() else None
    if labeled is None or labeled["inputs"].get("labeler") != release.provenance.get("labeler"):
        return None
    return _read(run, labeled, scored)


def _read(run: Path, labeled: dict[str, Any], scored: dict[str, Any] | None) -> Iterator[tuple[str, ImageDetails]]:
    regions = ShardFolder(run / "regions", "regions", Fingerprint(labeled["inputs"]))
    scores = ShardFolder(run / "scores", "scores", Fingerprint(scored["inputs"])) if scored else None
    for shard in range(len(list((run / "regions").glob("shard-*.parquet")))):
        rows = regions.read(shard, REGION_COLUMNS).to_pylist()
        # A run that uses another's labeler has no scores of its own.
        of_scores = scores.read(shard, SCORE_COLUMNS).to_pylist() if scores else [None] * len(rows)
        for row, score in zip(rows, of_scores, strict=True):
            yield row["image_id"], _details(row, score)


def _details(row: dict[str, Any], score: dict[str, Any] | None) -> ImageDetails:
    proposals = (score or {}).get("proposals") or []
    targets = [(window["target"], window["reason"]) for window in (score or {}).get("windows") or []]
    windows = []
    for number, window in enumerate(row["windows"] or []):
        label = window["top_labels"][0] if window["top_labels"] else -1
        value = window["top_scores"][0] if window["top_scores"] else 0.0
        windows.append((label, value, *(targets[number] if number < len(targets) else (TARGET_NOTHING, ""))))
    return ImageDetails(
        {item["proposal_id"]: (item["target"], item["reason"]) for item in proposals},
        windows,
        calibrated_scores({"labels": row["labels"] or []}),
    )


def describe_target(target: int, reason: str, class_names: list[str]) -> str:
    """What a region trained as and why, in words; empty if that is not known."""
    if not reason:
        return ""
    if target == TARGET_BACKGROUND:
        return f"trained as background: {reason}"
    if target == TARGET_NOTHING:
        return f"not used for training: {reason}"
    return f"trained as {class_names[target]}: {reason}"

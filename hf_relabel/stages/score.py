"""Score: what every region may train the labeler as: a class, background, or nothing, each with its reason.

The probabilities come from ReLabel's label maps (`labeling/label_maps.py`), with the keep rules of the paper (arXiv
2603.05729, section 3) and of its code, or, without any teacher, from the bootstrap (`labeling/selection.py`).
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from hf_relabel.config import ScoreConfig
from hf_relabel.errors import StageError
from hf_relabel.labeling.assignment import Assignment
from hf_relabel.labeling.label_map_folder import UNKNOWN, maker_of
from hf_relabel.labeling.label_map_scorer import LabelMapScorer
from hf_relabel.labeling.regions import ShardRegions, read_regions
from hf_relabel.labeling.selection import Selection, fit_selection
from hf_relabel.run.job import Job
from hf_relabel.run.ranks import thread_pool
from hf_relabel.run.shard_folder import MANIFEST, ShardFolder
from hf_relabel.run.shards import Shard, ShardResult
from hf_relabel.run.snapshot import SNAPSHOT
from hf_relabel.run.store import Fingerprint, read_record
from hf_relabel.schema import NO_LABEL, SCORES, TARGET_BACKGROUND
from hf_relabel.sources.columns import chunks, part_of

STAGE = "scores"

ALGORITHM = 3
"""Raise it when a change of the code changes the scores or what regions train as."""


COLUMNS = [
    "image_id",
    "label",
    "width",
    "height",
    "error",
    "proposals.list.element.proposal_id",
    "proposals.list.element.segmentation",
]


class Scorer(Protocol):
    """Gives the probabilities of a shard's regions, and what they train as."""

    def score(self, rows: list[dict[str, Any]], regions: ShardRegions) -> tuple[np.ndarray, Assignment, dict[int, str]]:
        """Score the regions of a shard.

        Args:
            rows: Its images' rows of `schema.PROPOSALS`, with the columns `COLUMNS`.
            regions: Its n regions.

        Returns:
            Probabilities, float [n, classes] or with background [n, classes + 1]; the assignment; and the reason why
            an image (by its index) could not be scored.
        """


def run(job: Job) -> dict[str, Any]:
    """Score every region; returns the stage's manifest."""
    job = job.training
    proposals, _ = job.finished("proposals", "propose")
    labels = part_of(job.snapshot.labels, 0, job.snapshot.training_images)
    if without := sum(int(np.count_nonzero(part == NO_LABEL)) for part in chunks(labels)):
        raise StageError(
            f"{job.folder / SNAPSHOT}: {without} images have no label, and no labeler can be trained on them; use "
            "a finished one (`hf-relabel run --labeler`)"
        )
    folder = ShardFolder(job.stage_folder(STAGE), STAGE, Fingerprint(_inputs(job, proposals)))
    if (manifest := job.existing(folder)) is not None:
        return manifest
    with thread_pool(job.rank.threads) as threads:
        if job.config.score.method == "bootstrap":
            scorer: Scorer = _BootstrapScorer(fit_selection(job, proposals, folder, threads))
        else:
            scorer = LabelMapScorer(job.config.score, len(job.snapshot.class_names), threads)

        def process(shard: Shard, tick: Callable[[int], None]) -> ShardResult:
            rows = proposals.read(shard.index, COLUMNS).to_pylist()
            regions = read_regions(proposals, shard.index)
            scored = _rows(rows, regions, *scorer.score(rows, regions), len(job.snapshot.class_names), job.config.score)
            tick(len(rows))
            return _collect(scored)

        return job.run_shards(folder, process)


def _inputs(job: Job, proposals: ShardFolder) -> dict[str, Any]:
    settings = job.settings("score")
    if job.config.score.method == "bootstrap":
        for key in ("label_maps", "keep", "tau_label", "tau_background"):
            settings["score"].pop(key)
        settings["run"] = {"seed": job.config.run.seed}
    else:
        settings["score"].pop("bootstrap")
        settings["label_maps"] = _maker(job)
    return {"algorithm": ALGORITHM, **settings, "proposals": proposals.fingerprint.digest}


def _maker(job: Job) -> dict[str, Any]:
    """What made the label maps. Finished scores stay valid after their maps are removed."""
    maps = Path(job.config.score.label_maps or "")
    manifest = None if maps.is_dir() else read_record(job.stage_folder(STAGE) / MANIFEST)
    return manifest["inputs"].get("label_maps", UNKNOWN) if manifest else maker_of(maps)


class _BootstrapScorer:
    def __init__(self, selection: Selection):
        self.selection = selection

    def score(self, rows: list[dict[str, Any]], regions: ShardRegions) -> tuple[np.ndarray, Assignment, dict[int, str]]:
        posterior = self.selection.posterior(regions)
        return posterior, self.selection.assign(regions, posterior), {}


def _rows(
    rows: list[dict[str, Any]],
    regions: ShardRegions,
    probabilities: np.ndarray,
    assignment: Assignment,
    failed: dict[int, str],
    classes: int,
    config: ScoreConfig,
) -> list[dict[str, Any]]:
    """The images' rows of `schema.SCORES`."""
    starts = np.searchsorted(regions.image, np.arange(len(rows) + 1))
    has_background = probabilities.shape[1] > classes
    top = np.argsort(-probabilities[:, :classes], axis=1, kind="stable")[:, : config.top_k]
    scored = []
    for number, image in enumerate(rows):
        error = image["error"] if image["error"] is not None else failed.get(number)
        proposals: list[dict[str, Any]] = []
        windows: list[dict[str, Any]] = []
        for at in range(starts[number], starts[number + 1]) if error is None else ():
            target, reason = int(assignment.targets[at]), str(assignment.reasons[at])
            item: dict[str, Any] = {"target": TARGET_BACKGROUND if target == classes else target, "reason": reason}
            if regions.is_window[at]:
                windows.append(item)
                continue
            item |= {
                "proposal_id": image["proposals"][len(proposals)]["proposal_id"],
                "top_labels": top[at],
                "top_scores": probabilities[at, top[at]],
                "original_score": probabilities[at, image["label"]],
                "background_score": probabilities[at, classes] if has_background else None,
            }
            proposals.append(item)
        trains = any(item["target"] >= 0 for item in proposals)
        scored.append(
            {
                "image_id": image["image_id"],
                "label": image["label"],
                "whole_image": config.force_original and error is None and not trains,
                "error": error,
                "proposals": proposals,
                "windows": windows,
            }
        )
    return scored


def _role(target: int) -> str:
    """What a region trains as, in a word."""
    if target >= 0:
        return "class"
    return "background" if target == TARGET_BACKGROUND else "nothing"


def _collect(rows: list[dict[str, Any]]) -> ShardResult:
    counters: Counter[str] = Counter()
    for row in rows:
        for kind in ("proposals", "windows"):
            for item in row[kind]:
                counters[f"{kind} that train as {_role(item['target'])}: {item['reason']}"] += 1
    read = [row for row in rows if row["error"] is None]
    return ShardResult(
        pa.Table.from_pylist(rows, schema=SCORES),
        errors=len(rows) - len(read),
        counters={
            **counters,
            "images with a region that trains as a class": sum(
                any(item["target"] >= 0 for item in row["proposals"]) for row in read
            ),
            "images trained on as a whole": sum(row["whole_image"] for row in read),
        },
    )

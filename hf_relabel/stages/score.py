"""Score: which proposals really show their image's original label, and so may train the labeler.

The probabilities come from ReLabel's label maps (`labeling/label_maps.py`) or, without any teacher, from the bootstrap
(`labeling/selection.py`). The keep rules are those of the paper (arXiv 2603.05729, section 3) and of its code.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from hf_relabel.config import ScoreConfig
from hf_relabel.labeling.label_maps import (
    LabelMapError,
    check_label_maps,
    label_map_path,
    read_label_map,
    score_under_mask,
)
from hf_relabel.labeling.selection import Bootstrap, fit_bootstrap
from hf_relabel.run.job import Job
from hf_relabel.run.ranks import thread_pool
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.shards import Shard, ShardResult
from hf_relabel.run.store import Fingerprint
from hf_relabel.schema import SCORES
from hf_relabel.vision import masks

STAGE = "scores"

ALGORITHM = 1
"""Raise it when a change of the code changes the scores or what is kept."""

BELOW_ORIGINAL = "original label below tau_label"
BELOW_TOP1 = "top-1 below tau_label"


class Scorer(Protocol):
    """Gives the probabilities of all classes for each proposal of an image."""

    def open_shard(self, shard: int) -> Callable[[dict[str, Any]], np.ndarray]:
        """A function from an image's proposals row to float32 [proposals, classes]; raises LabelMapError."""


def run(job: Job) -> dict[str, Any]:
    """Score every proposal; returns the stage's manifest."""
    proposals, _ = job.finished("proposals", "propose")
    settings = {"algorithm": ALGORITHM, **job.settings("score"), "proposals": proposals.fingerprint.digest}
    if job.config.score.method == "bootstrap":
        settings["score"].pop("label_maps")
        settings["run"] = {"seed": job.config.run.seed}
    else:
        settings["score"].pop("bootstrap")
    folder = ShardFolder(job.stage_folder(STAGE), STAGE, Fingerprint(settings))
    if (manifest := job.existing(folder)) is not None:
        return manifest
    with thread_pool(job.rank.threads) as threads:
        if job.config.score.method == "bootstrap":
            scorer: Scorer = _BootstrapScorer(fit_bootstrap(job, proposals, folder, threads), proposals)
        else:
            scorer = _LabelMapScorer(job)

        def process(shard: Shard, tick: Callable[[int], None]) -> ShardResult:
            score = scorer.open_shard(shard.index)
            rows = proposals.read(shard.index).to_pylist()
            results = []
            for result in threads.map(lambda row: score_image(row, score, job.config.score), rows):
                results.append(result)
                tick(1)
            return _collect(results)

        return job.run_shards(folder, process)


class _LabelMapScorer:
    def __init__(self, job: Job):
        self.folder = check_label_maps(job.config.score.label_maps or "")
        self.classes = len(job.snapshot.class_names)

    def open_shard(self, shard: int) -> Callable[[dict[str, Any]], np.ndarray]:
        return self._score

    def _score(self, row: dict[str, Any]) -> np.ndarray:
        label_map = read_label_map(label_map_path(self.folder, row["image_id"]), self.classes)
        decoded = (masks.decode(proposal["segmentation"]) for proposal in row["proposals"])
        scores = [score_under_mask(label_map, mask, self.classes).numpy() for mask in decoded]
        return np.stack(scores) if scores else np.zeros((0, self.classes), np.float32)


class _BootstrapScorer:
    def __init__(self, bootstrap: Bootstrap, proposals: ShardFolder):
        self.bootstrap = bootstrap
        self.proposals = proposals

    def open_shard(self, shard: int) -> Callable[[dict[str, Any]], np.ndarray]:
        features = self.proposals.features(shard)

        def score(row: dict[str, Any]) -> np.ndarray:
            first = row["feature_row"] + 1  # the row before is the whole image's
            regions = features[first : first + len(row["proposals"]), 0]
            return self.bootstrap.probabilities(regions, row["image_id"])

        return score


def score_image(
    row: dict[str, Any], score: Callable[[dict[str, Any]], np.ndarray], config: ScoreConfig
) -> dict[str, Any]:
    """Make an image's row of `schema.SCORES` from its row of `schema.PROPOSALS`."""
    empty = {"image_id": row["image_id"], "label": row["label"], "whole_image": False, "proposals": []}
    if row["error"] is not None:
        return empty | {"error": row["error"]}
    try:
        probabilities = score(row)
    except LabelMapError as error:
        return empty | {"error": str(error)}
    kept = keep_rule(probabilities, row["label"], config)
    scored = [
        _score_proposal(proposal["proposal_id"], row["label"], of_classes, keep, config)
        for proposal, of_classes, keep in zip(row["proposals"], probabilities, kept, strict=True)
    ]
    whole_image = config.force_original and not any(proposal["kept"] for proposal in scored)
    return empty | {"error": None, "whole_image": whole_image, "proposals": scored}


def keep_rule(probabilities: np.ndarray, label: int, config: ScoreConfig) -> np.ndarray:
    """Which of an image's proposals are kept, bool [proposals], from float32 [proposals, classes] (`score.keep`)."""
    if config.keep == "top1":
        return probabilities.max(axis=1) >= config.tau_label
    kept = probabilities[:, label] >= config.tau_label
    if config.keep == "best" and len(probabilities):
        kept[probabilities[:, label].argmax()] = True
    return kept


def _score_proposal(
    proposal_id: str, label: int, probabilities: np.ndarray, kept: bool, config: ScoreConfig
) -> dict[str, Any]:
    top = np.argsort(-probabilities, kind="stable")[: config.top_k]
    target, reason = (int(top[0]), BELOW_TOP1) if config.keep == "top1" else (label, BELOW_ORIGINAL)
    return {
        "proposal_id": proposal_id,
        "top_labels": top.tolist(),
        "top_scores": probabilities[top].tolist(),
        "original_score": float(probabilities[label]),
        "kept": bool(kept),
        "target": target if kept else -1,
        "reason": None if kept else reason,
    }


def _collect(rows: list[dict[str, Any]]) -> ShardResult:
    reasons = Counter(f"dropped: {item['reason']}" for row in rows for item in row["proposals"] if not item["kept"])
    read = [row for row in rows if row["error"] is None]
    return ShardResult(
        pa.Table.from_pylist(rows, schema=SCORES),
        errors=len(rows) - len(read),
        counters={
            **reasons,
            "kept": sum(item["kept"] for row in rows for item in row["proposals"]),
            "images with a kept proposal": sum(any(item["kept"] for item in row["proposals"]) for row in read),
            "images trained on as a whole": sum(row["whole_image"] for row in read),
        },
    )

"""Label: the labeler classifies every proposal, and the whole image, from stored features."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hf_relabel.labeling.labeler import Labeler
from hf_relabel.run.job import Job
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.shards import Shard, ShardResult
from hf_relabel.run.store import Fingerprint
from hf_relabel.schema import REGIONS

STAGE = "regions"

ALGORITHM = 1
"""Raise it when a change of the code changes the classes or scores of regions."""

CHUNK = 4096


def run(job: Job) -> dict[str, Any]:
    """Label every region; returns the stage's manifest."""
    proposals, manifest = job.finished("proposals", "propose")
    backbone, classes = manifest["inputs"]["backbone"], job.snapshot.class_names
    labeler = Labeler.load(job.stage_folder("labeler"), backbone, classes)
    top_k = min(job.config.label.top_k, len(labeler.class_names))
    inputs = {
        "algorithm": ALGORITHM,
        **job.settings("label"),
        # All of its record, because a release says how its labeler was trained, even if another one is there by then.
        "labeler": {
            "head": asdict(labeler.head.shape),
            "training": labeler.training,
            "weights_sha256": labeler.weights_sha256,
        },
        "proposals": proposals.fingerprint.digest,
    }
    folder = ShardFolder(job.stage_folder(STAGE), STAGE, Fingerprint(inputs))
    if (done := job.existing(folder)) is not None:
        return done
    head = labeler.head.to(job.rank.device)

    def process(shard: Shard, tick: Callable[[int], None]) -> ShardResult:
        columns = ["image_id", "error", "feature_row", "proposals.list.element.proposal_id"]
        rows = proposals.read(shard.index, columns).to_pylist()
        labels, scores = predict(head, proposals.features(shard.index)[:, 0], top_k)
        tick(len(rows))
        return _collect([_image_row(row, labels, scores) for row in rows])

    return job.run_shards(folder, process)


@torch.inference_mode()
def predict(head: torch.nn.Module, features: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Classify regions, float16 [N, dim]: the `top_k` labels, int32 [N, k], best first, and softmax scores [N, k]."""
    device = next(head.parameters()).device
    labels, scores = [np.zeros((0, top_k), np.int32)], [np.zeros((0, top_k), np.float32)]
    for start in range(0, len(features), CHUNK):
        chunk = torch.from_numpy(np.array(features[start : start + CHUNK])).to(device).float()
        top = torch.softmax(head(chunk).float(), dim=1).topk(top_k, dim=1)
        labels.append(top.indices.cpu().numpy().astype(np.int32))
        scores.append(top.values.cpu().numpy())
    return np.concatenate(labels), np.concatenate(scores)


def _image_row(row: dict[str, Any], labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Make an image's row of `schema.REGIONS` from the predictions of its shard."""
    first = row["feature_row"]
    if row["error"] is not None:
        return {
            "image_id": row["image_id"],
            "error": row["error"],
            "global_labels": [],
            "global_scores": [],
            "proposals": [],
        }
    return {
        "image_id": row["image_id"],
        "error": None,
        "global_labels": labels[first],
        "global_scores": scores[first],
        "proposals": [
            {"proposal_id": proposal["proposal_id"], "top_labels": labels[at], "top_scores": scores[at]}
            for at, proposal in enumerate(row["proposals"], start=first + 1)
        ],
    }


def _collect(rows: list[dict[str, Any]]) -> ShardResult:
    return ShardResult(
        pa.Table.from_pylist(rows, schema=REGIONS),
        errors=sum(row["error"] is not None for row in rows),
        counters={"regions": sum(len(row["proposals"]) for row in rows)},
    )

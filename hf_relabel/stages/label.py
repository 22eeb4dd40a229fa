"""Label: the labeler classifies every region, and its evidence becomes the scores of each image's labels."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hf_relabel.labeling.calibration import MAX_SCORE, MIN_LIFT, Calibration
from hf_relabel.labeling.evidence import EVIDENCE, margins
from hf_relabel.labeling.labeler import Labeler
from hf_relabel.labeling.regions import KINDS, ShardRegions, read_regions
from hf_relabel.labeling.scoring import classify
from hf_relabel.run.job import Job
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.shards import Shard, ShardResult
from hf_relabel.run.store import Fingerprint
from hf_relabel.schema import NO_LABEL, REGIONS

STAGE = "regions"

NEW = -1
"""Fold of images that the labeler was not trained on."""

ALGORITHM = 3
"""Raise it when a change of the code changes the classes or scores of regions or images."""

MIN_SCORE = 0.01
"""Smallest score of a label that is stored for an image."""


def run(job: Job) -> dict[str, Any]:
    """Label every region; returns the stage's manifest."""
    proposals, manifest = job.finished("proposals", "propose")
    backbone, classes = manifest["inputs"]["backbone"], job.snapshot.class_names
    labeler = Labeler.load(job.labeler_folder, backbone, classes)
    is_new = labeler.training["upstream"]["scores"]["inputs"]["proposals"] != proposals.fingerprint.digest
    inputs = {
        "algorithm": ALGORITHM,
        **job.settings("label"),
        # All of its record, because a release says how its labeler was trained, even if another one is there by then.
        "labeler": {
            "head": asdict(labeler.heads.shape),
            "training": labeler.training,
            "weights_sha256": labeler.weights_sha256,
        },
        "proposals": proposals.fingerprint.digest,
        # Images that the labeler was trained on are labeled by the head that has not seen them, all others by the one
        # for new images.
        **({"new_images": True} if is_new else {}),
    }
    folder = ShardFolder(job.stage_folder(STAGE), STAGE, Fingerprint(inputs))
    if (done := job.existing(folder)) is not None:
        return done
    labeler.heads.to(job.rank.device)

    def process(shard: Shard, tick: Callable[[int], None]) -> ShardResult:
        columns = ["image_id", "error", "feature_row", "proposals.list.element.proposal_id"]
        rows = proposals.read(shard.index, columns).to_pylist()
        regions = read_regions(proposals, shard.index)
        features = proposals.features(shard.index)
        whole = np.zeros((len(rows), features.shape[1]), np.float16)
        readable = [number for number, row in enumerate(rows) if row["error"] is None]  # perhaps none of the shard
        if readable:
            whole[readable] = features[[rows[number]["feature_row"] for number in readable]]
        was_trained_on = not is_new and job.trains(shard)
        folds = labeler.folds_of(regions.sha256) if was_trained_on else np.full(len(rows), NEW)
        result = _collect(label_images(labeler, rows, regions, whole, folds, job.config.label.top_k))
        tick(len(rows))
        return result

    return job.run_shards(folder, process)


def label_images(
    labeler: Labeler,
    rows: list[dict[str, Any]],
    regions: ShardRegions,
    whole: np.ndarray,
    folds: np.ndarray,
    top_k: int,
) -> list[dict[str, Any]]:
    """Make the images' rows of `schema.REGIONS`.

    Args:
        labeler: The labeler.
        rows: The shard's rows of `schema.PROPOSALS`.
        regions: The shard's regions.
        whole: Features of the whole images, float16 [images, dim]; any values for images that could not be read.
        folds: Fold of each image, int64 [images]; NEW for images that the labeler was not trained on.
        top_k: Number of classes to keep for each region.
    """
    classes = len(labeler.class_names)
    logits = classify(labeler, regions, folds)
    margin = margins(logits, classes).cpu().numpy()
    top_labels, top_scores, background = _top(logits, classes, top_k)
    device = labeler.heads.mean.device
    with torch.inference_mode():
        of_whole = torch.from_numpy(whole).to(device).float()
        whole_logits = labeler.heads.of_folds(of_whole, torch.from_numpy(folds).to(device))
    global_labels, global_scores, _ = _top(whole_logits, classes, top_k)
    given, others = _image_scores(labeler, EVIDENCE[labeler.scores.evidence](margin, regions), regions.label)
    starts = np.searchsorted(regions.image, np.arange(len(rows) + 1))
    result = []
    for number, row in enumerate(rows):
        empty = {"image_id": row["image_id"], "error": row["error"], "proposals": [], "labels": [], "windows": []}
        if row["error"] is not None:
            nothing: dict[str, Any] = {"global_labels": [], "global_scores": [], "label_score": None}
            result.append(empty | nothing)
            continue
        mine = np.arange(starts[number], starts[number + 1])
        proposals = mine[~regions.is_window[mine]]
        result.append(
            {
                "image_id": row["image_id"],
                "error": None,
                "global_labels": global_labels[number],
                "global_scores": global_scores[number],
                "label_score": None if given is None or np.isnan(given[number]) else given[number],
                "labels": _labels(
                    others[number], int(regions.label[number]), _supporting(labeler, margin, regions, proposals)
                ),
                "proposals": [
                    {
                        "proposal_id": proposal["proposal_id"],
                        "top_labels": top_labels[at],
                        "top_scores": top_scores[at],
                        "background_score": background[at],
                    }
                    for proposal, at in zip(row["proposals"], proposals, strict=True)
                ],
                "windows": [
                    {"top_labels": top_labels[at, :1], "top_scores": top_scores[at, :1]}
                    for at in mine[regions.is_window[mine]]
                ],
            }
        )
    return result


def _top(logits: torch.Tensor, classes: int, top_k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best classes of each row with their softmax scores, [n, k], and the background's score, [n]."""
    scores = torch.softmax(logits.float(), dim=1)
    top = scores[:, :classes].topk(min(top_k, classes), dim=1)
    background = scores[:, classes:].sum(dim=1)
    return top.indices.cpu().numpy().astype(np.int32), top.values.cpu().numpy(), background.cpu().numpy()


def _image_scores(labeler: Labeler, evidence: np.ndarray, label: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """The calibrated scores of the given labels, [images], and of all others, [images, classes]; 0 for the given.

    The given label's score is NaN where an image has no label.
    """
    calibration = labeler.scores.calibration
    if calibration is None:
        return None, np.zeros(evidence.shape)
    others = calibration.of_other(evidence) if labeler.scores.adds else np.zeros(evidence.shape)
    without = label == NO_LABEL
    others[without] = _without_given(calibration, evidence[without])
    rows = np.flatnonzero(~without)
    others[rows, label[rows]] = 0
    given = np.full(len(label), np.nan)
    given[rows] = calibration.of_given(evidence[rows, label[rows]])
    return given, others


def _without_given(calibration: Calibration, evidence: np.ndarray) -> np.ndarray:
    """The probability of each class in images without a label: p / e, as any class may have been the given one.

    Where the labeler cannot tell classes apart, e is as small as p, and only p, a lower bound, is meaningful.
    """
    found = calibration.of_given(evidence)
    if calibration.lift < MIN_LIFT:
        found = calibration.chance_of_given(evidence)
    return np.minimum(found, MAX_SCORE)


def _supporting(labeler: Labeler, margin: np.ndarray, regions: ShardRegions, proposals: np.ndarray) -> np.ndarray:
    """Margins of an image's proposals, [proposals, classes], to choose each label's mask by.

    If the evidence is that of objects, merged regions do not count, which may be parts of the object.
    """
    chosen = margin[proposals]
    merged = regions.kind[proposals] == KINDS.index("merge")
    if labeler.scores.evidence == "object" and not merged.all():
        chosen = np.where(merged[:, None], -np.inf, chosen)
    return chosen


def _labels(scores: np.ndarray, given: int, margin: np.ndarray) -> list[dict[str, Any]]:
    """The given label, if any, and the image's other possible labels, each with the proposal that shows it best."""
    best = margin.argmax(axis=0) if len(margin) else np.full(len(scores), -1)
    others = np.flatnonzero(scores >= MIN_SCORE)
    others = others[np.argsort(-scores[others], kind="stable")]
    return [
        {"label": int(label), "score": None if label == given else float(scores[label]), "proposal": int(best[label])}
        for label in ([] if given == NO_LABEL else [given]) + others.tolist()
    ]


def _collect(rows: list[dict[str, Any]]) -> ShardResult:
    return ShardResult(
        pa.Table.from_pylist(rows, schema=REGIONS),
        errors=sum(row["error"] is not None for row in rows),
        counters={"regions": sum(len(row["proposals"]) for row in rows)},
    )

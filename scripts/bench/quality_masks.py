"""Masks compared with the polygons of COCO's objects, and the bytes that `propose` stores per image."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.store import Fingerprint, read_record
from hf_relabel.vision import masks

MIN_RECALL, MAX_BYTES = 0.48, 35_000
"""Bars of the masks: recall of labels, and bytes per image that `propose` stores."""

SIDE = 224
"""Side in pixels at which masks are compared with polygons."""

SMALL_LABEL = 0.005
"""Share of the image; labels whose objects cover less together are left out of the first recall."""

BIG_OBJECT = 0.05


def measure_masks(run: Path, polygons: Path) -> dict[str, Any]:
    """Recall of COCO's labels and objects by all proposals, and what `propose` stores per image."""
    manifest = read_record(run / "proposals" / "manifest.json")
    assert manifest is not None
    folder = ShardFolder(run / "proposals", "proposals", Fingerprint(manifest["inputs"]))
    found: dict[str, list[bool]] = {"labels": [], "all_labels": [], "big_objects": []}
    count, images, feature_rows, dim = 0, 0, 0, 0
    for shard in range(len(manifest["shards"])):
        feature_rows, dim = feature_rows + len(folder.features(shard)), folder.features(shard).shape[-1]
        for row in folder.read(shard).to_pylist():
            grid = masks.unpack([proposal["grid_mask"] for proposal in row["proposals"]], tuple(row["grid"]))
            proposals = np.array([masks.to_image(mask, (SIDE, SIDE)) for mask in grid]).reshape(-1, SIDE * SIDE)
            classes, objects = _objects(polygons / f"{Path(row['image_id']).stem}.txt")
            labels = sorted(set(classes))
            unions = np.array([objects[classes == label].any(axis=0) for label in labels])
            of_object, of_union = _best_iou(proposals, objects), _best_iou(proposals, unions)
            best = [max(of_union[k], of_object[classes == label].max()) for k, label in enumerate(labels)]
            found["labels"] += (of_union >= 0.5)[unions.mean(axis=1) > SMALL_LABEL].tolist()
            found["all_labels"] += [iou >= 0.5 for iou in best]
            found["big_objects"] += (of_object >= 0.5)[objects.mean(axis=1) > BIG_OBJECT].tolist()
            count, images = count + len(proposals), images + 1
    size = {kind: sum(path.stat().st_size for path in folder.folder.glob(f"*.{kind}")) for kind in ("npy", "parquet")}
    return {
        "images": images,
        "proposals": count / images,
        **{f"recall_{name}": float(np.mean(hits)) for name, hits in found.items()},
        **{f"number_{name}": len(hits) for name, hits in found.items()},
        "feature_bytes": size["npy"] / images,
        "table_bytes": size["parquet"] / images,
        "feature_bytes_as_integers": (feature_rows * dim + 4 * dim * len(manifest["shards"])) / images,
    }


def _objects(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """The classes, int64 [n], and masks, bool [n, pixels], of a file of polygons."""
    classes, found = [], []
    for line in file.read_text(encoding="utf-8").splitlines():
        name, *numbers = line.split()
        corners = (np.array(numbers, float).reshape(-1, 2) * SIDE).tolist()
        picture = Image.new("1", (SIDE, SIDE))
        ImageDraw.Draw(picture).polygon([(x, y) for x, y in corners], fill=1)
        classes.append(int(name))
        found.append(np.asarray(picture).ravel())
    return np.array(classes), np.array(found)


def _best_iou(proposals: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The highest IoU of each target with a proposal, float [targets]; 0 without proposals."""
    if not len(proposals):
        return np.zeros(len(targets))
    shared = proposals.astype(np.float32) @ targets.astype(np.float32).T
    return (shared / np.maximum(proposals.sum(1)[:, None] + targets.sum(1) - shared, 1)).max(axis=0)


def format_masks(found: dict[str, Any]) -> list[str]:
    stored = found["feature_bytes"] + found["table_bytes"]
    as_integers = found["feature_bytes_as_integers"] + found["table_bytes"]
    recall, size = found["recall_labels"] >= MIN_RECALL, stored <= MAX_BYTES
    return [
        f"coco, {found['images']} photos, {found['proposals']:.1f} proposals per image, mask IoU 0.5:",
        f"  labels above {SMALL_LABEL:.1%} of the image, union of their objects: {found['recall_labels']:.3f} "
        f"(>= {MIN_RECALL}: {'reached' if recall else 'NOT reached'})",
        f"  all {found['number_all_labels']} labels, union or any one object: {found['recall_all_labels']:.3f}",
        f"  objects above {BIG_OBJECT:.0%} of the image: {found['recall_big_objects']:.3f}",
        f"  stored bytes per image: {found['feature_bytes']:.0f} features + {found['table_bytes']:.0f} tables = "
        f"{stored:.0f} (<= {MAX_BYTES}: {'reached' if size else 'NOT reached'}); with 8-bit features {as_integers:.0f}",
    ]

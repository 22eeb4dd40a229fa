"""Small releases with real masks from a seed: the same images and regions for any version and threshold."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_relabel.release.layout import MANIFEST
from hf_relabel.release.reader import Release
from hf_relabel.release.writer import write_release
from hf_relabel.run.store import sha256_of
from hf_relabel.schema import Excluded, release_schema
from hf_relabel.vision import masks

CLASSES = ["cat", "dog", "red | blue ball", "tree"]


def make_rows(
    images: int, threshold: float = 0.5, classes: int = len(CLASSES), version: str = "1.0.0", seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Make rows of the `regions` configuration: 0 to 3 regions per image, labels above a threshold and the original."""
    rng = np.random.default_rng(seed)
    for index in range(images):
        image_id = f"{index % 10:02d}/img_{index:07d}.jpg"
        width, height = int(rng.integers(20, 60)), int(rng.integers(20, 60))
        regions = []
        for place in range(rng.integers(0, 4)):
            mask = np.zeros((height, width), bool)
            top, left = rng.integers(0, height - 8), rng.integers(0, width - 8)
            mask[top : top + rng.integers(4, 20), left : left + rng.integers(4, 20)] = True
            mask[:: rng.integers(2, 9)] &= rng.random(width) < 0.7
            top_labels = rng.permutation(classes)[: min(3, classes)].tolist()
            top_scores = np.sort(rng.random(len(top_labels)).astype(np.float32))[::-1].tolist()
            regions.append(
                {
                    "region_id": f"{image_id}#{place}",
                    "label": top_labels[0],
                    "score": top_scores[0],
                    "top_labels": top_labels,
                    "top_scores": top_scores,
                    "bbox": masks.bbox(mask),
                    "area": masks.area(mask),
                    "generator": "maskcut" if place else "merge",
                    "segmentation": masks.encode(mask),
                }
            )
        label = int(rng.integers(classes))
        scores: dict[int, float] = {}
        for region in regions:
            for name, score in zip(region["top_labels"], region["top_scores"], strict=True):
                if score >= threshold:
                    scores[name] = max(score, scores.get(name, 0.0))
        scores[label] = 1.0
        ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        yield {
            "image_id": image_id,
            "label": label,
            "labels": [name for name, _ in ranked],
            "scores": [score for _, score in ranked],
            "label_score": None if index % 7 == 3 else index % 5 / 4,
            "width": width,
            "height": height,
            "regions": regions,
            "version": version,
        }


def make_release(
    folder: Path,
    version: str = "1.0.0",
    *,
    images: int = 60,
    threshold: float = 0.5,
    class_names: list[str] | None = None,
    rows_per_file: int = 25,
    rows: list[dict[str, Any]] | None = None,
    **options: Any,
) -> Release:
    """Write a release folder."""
    names = class_names or CLASSES
    if rows is None:
        rows = list(make_rows(images, threshold, len(names), version))
    rows = sorted(rows, key=lambda row: row["image_id"])
    table = pa.Table.from_pylist(rows, schema=release_schema("regions", names))
    settings = {
        "class_names": names,
        "name": "Tiny",
        "provenance": provenance(threshold, version),
        "excluded": [Excluded("00/broken.jpg", "cannot identify image file")],
        "rows_per_file": rows_per_file,
    }
    split = options.pop("split", "train")
    return write_release(folder, {split: [table]}, version=version, **{**settings, **options})


def as_version_1(folder: Path) -> Release:
    """Rewrite a release as hf_relabel 0.1 wrote it: without `label_score` and the regions' `generator`."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for entry in manifest["files"]:
        path = folder / entry["path"]
        if entry["config_name"] is not None:
            table = pq.read_table(path).drop_columns("label_score")
            if "regions" in table.column_names:
                regions = [
                    [{k: v for k, v in region.items() if k != "generator"} for region in row]
                    for row in table["regions"].to_pylist()
                ]
                item = table.schema.field("regions").type.value_type
                kind = pa.list_(pa.struct([field for field in item if field.name != "generator"]))
                place = table.column_names.index("regions")
                table = table.set_column(place, "regions", pa.array(regions, kind))
            features = json.loads(table.schema.metadata[b"huggingface"])
            stored = features["info"]["features"]
            stored.pop("label_score")
            for region in stored.get("regions", []):
                region.pop("generator")
            pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)
        entry |= {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (folder / MANIFEST).write_text(json.dumps(manifest | {"schema_version": 1}))
    return Release.open(folder)


def provenance(threshold: float, version: str) -> dict[str, Any]:
    """A short version of the provenance of a run."""
    return {
        "tool": {"name": "hf_relabel", "version": "0.1.0"},
        "backbone": {"model": "user/vit", "revision": "0" * 40, "image_size": 224},
        "labeler": {"head": {"head": "discriminant", "outputs": 5, "hidden": 1024}},
        "config": {
            "source": {"kind": "dataset", "path": "user/photos", "split": "train"},
            "propose": {"generators": ["maskcut", "merge"], "tau": 0.4, "max_masks": 3},
            "score": {"method": "bootstrap", "tau_label": 0.75},
            "build": {"version": version, "threshold": threshold, "include_original": True},
            "run": {"seed": 0},
        },
        "scores": {
            "calibrated": True,
            "head": "discriminant",
            "folds": 20,
            "background": True,
            "evidence": "object",
            "propensity": 0.6,
            "still_to_learn": 0.02,
            "images": 60,
            "observations": 44,
            "reliability": [
                {"low": 0.0, "high": 0.05, "labels": 1234, "score": 0.01, "given": 5},
                {"low": 0.8, "high": 0.9, "labels": 36, "score": 0.85, "given": 40},
                {"low": 0.9, "high": 1.0, "labels": 0, "score": None, "given": 0},
            ],
            "threshold": threshold,
            "added": {"labels": 36, "true": 30.6, "precision": 0.85},
            "note": None,
        },
        "packages": {"numpy": "2.0.0", "torch": "2.13.0"},
    }

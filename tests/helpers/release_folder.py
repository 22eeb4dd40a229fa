"""Write small releases for tests from brief rows."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from hf_relabel.release import writer
from hf_relabel.schema import release_schema
from hf_relabel.vision import masks


def write_release(folder: Path, class_names: list[str], rows: list[dict[str, Any]], split: str = "train") -> Path:
    """Write a release with the given rows.

    Args:
        folder: The release folder.
        class_names: Names of the classes.
        rows: Each with image_id, label, labels, scores and, optionally, label_score, width, height and regions, a
            list of {label, score, mask}.
        split: Name of the split.
    """
    filled = [{"width": 0, "height": 0, **row, "regions": _regions(row)} for row in rows]
    table = pa.Table.from_pylist(filled, release_schema("regions", class_names))
    writer.write_release(folder, {split: [table]}, class_names=class_names, version="1.0.0", name="Tiny", provenance={})
    return folder


def _regions(row: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for k, region in enumerate(row.get("regions", [])):
        found.append(
            {
                "region_id": f"{row['image_id']}#{k}",
                "label": region["label"],
                "score": region["score"],
                "top_labels": [region["label"]],
                "top_scores": [region["score"]],
                "bbox": masks.bbox(region["mask"]),
                "area": masks.area(region["mask"]),
                "segmentation": masks.encode(region["mask"]),
            }
        )
    return found

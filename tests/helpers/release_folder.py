"""Writes small releases for tests, by the schema alone."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hf_relabel import schema
from hf_relabel.vision import masks


def write_release(
    folder: Path, class_names: list[str], rows: list[dict], split: str = "train", drop: tuple = ()
) -> Path:
    """A release folder with the rows given: image_id, label, labels, scores and, optionally, width, height and
    regions [{label, score, mask}]. Columns in `drop` are left out."""
    for config_name in schema.CONFIG_NAMES:
        if config_name == "regions" and not any("regions" in row for row in rows):
            continue
        columns = schema.release_schema(config_name, class_names)
        filled = [{**row, "version": "1.0.0", "regions": _regions(row)} for row in rows]
        table = pa.Table.from_pylist([{name: row.get(name) for name in columns.names} for row in filled], columns)
        path = folder / "data" / config_name / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.drop_columns([name for name in drop if name in columns.names]), path)
    return folder


def _regions(row: dict) -> list[dict]:
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

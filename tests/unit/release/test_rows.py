"""Every kind of invalid value is found, in the writer and in files that were changed afterwards."""

import copy

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from releases import CLASSES, make_release, make_rows

from hf_relabel.errors import ReleaseError
from hf_relabel.formats.segmentation import run_lengths
from hf_relabel.release.rows import COLUMN_TYPES, COLUMNS_OF, find_invalid_row
from hf_relabel.release.run_lengths import areas_of
from hf_relabel.schema import CONFIG_NAMES, release_schema
from hf_relabel.vision import masks

SCHEMA = release_schema("regions", CLASSES)

CHANGES = [
    ("label", 4, "label", "has class 4"),
    ("labels", None, "labels.list", "has no value"),
    ("labels", [0, None], "labels", "has no value"),
    ("labels", [-1], "labels", "has class -1"),
    ("scores", [], "scores", "exactly one score"),
    ("scores", [float("nan")], "scores", "not in [0, 1]"),
    ("scores", [1.5], "scores", "has score 1.5"),
    ("image_id", "../../etc/passwd", "image_id", "must be a relative path"),
    ("image_id", "a\nb", "image_id", "must be a relative path"),
    ("image_id", "", "image_id", "must be a relative path"),
    ("labels", [2, 2], "scores", "exactly one score"),
    ("regions.0.top_labels", [2, 2, 2], "regions.top_labels", "has a class twice"),
    ("width", -1, "width", "implausible"),
    ("width", 2**31 - 1, "width", "implausible"),
    ("regions.0.label", 9, "regions.label", "has class 9"),
    ("regions.0.score", float("inf"), "regions.score", "not in [0, 1]"),
    ("regions.0.top_labels", [0, 77], "regions.top_labels", "has class 77"),
    ("regions.0.top_scores", [0.5], "regions.top_scores", "exactly one score"),
    ("regions.0.bbox", [1.0, None, 2.0, 3.0], "regions.bbox", "has no value"),
    ("regions.0.bbox", [1.0, 2.0, 3.0], "regions.bbox", "not [x, y, width, height]"),
    ("regions.0.bbox", [-1.0, 2.0, 3.0, 4.0], "regions.bbox", "not a box within the image"),
    ("regions.0.bbox", [float("nan")] * 4, "regions.bbox", "not a box within the image"),
    ("regions.0.bbox", [1.0, 2.0, 1e9, 4.0], "regions.bbox", "not a box within the image"),
    ("regions.0.area", 5000, "regions.area", "another number of pixels"),
    ("regions.0.segmentation.counts", "", "regions.segmentation.counts", "not the run lengths"),
    ("regions.0.segmentation.counts", "\x7f", "regions.segmentation.counts", "not the run lengths"),
    ("regions.0.segmentation.counts", "PPYo1`0" * 40, "regions.segmentation.counts", "not the run lengths"),
    ("regions.0", None, "regions", "has no value"),
    ("regions.0.segmentation", None, "regions.segmentation", "has no value"),
    ("regions.0.segmentation.counts", None, "regions.segmentation.counts", "has no value"),
    ("regions.0.segmentation.size", [5], "regions.segmentation.size", "not [height, width]"),
    ("regions.0.segmentation.size", [7, 9], "regions.segmentation.size", "another size than the image's"),
]


def test_the_types_are_those_of_the_schema():
    for name in CONFIG_NAMES:
        schema = release_schema(name, CLASSES)
        assert dict(zip(schema.names, schema.types, strict=True)) == {
            key: COLUMN_TYPES[key] for key in COLUMNS_OF[name]
        }


def test_many_run_lengths_at_once_are_those_of_one_by_one():
    rng = np.random.default_rng(0)
    texts, pixels, areas = [], [], []
    for number in range(2000):
        mask = rng.random(rng.integers(1, 40, 2)) < rng.random()
        text = list(masks.encode(mask)["counts"])
        for _ in range(number % 3):
            text[rng.integers(len(text))] = chr(rng.integers(45, 120))
        texts.append("".join(text))
        pixels.append(mask.size)
        try:
            runs = run_lengths(texts[-1])
            areas.append(int(runs[1::2].sum()) if runs.sum() == mask.size else None)
        except ValueError:
            areas.append(None)
    found, is_valid = areas_of(pa.array(["x", *texts])[1:], np.array(pixels))
    assert [int(area) if ok else None for area, ok in zip(found, is_valid, strict=True)] == areas
    assert 600 < is_valid.sum() < 1000


def valid_rows():
    """Rows in order, where the sixth one has at least one region and exactly one label."""
    rows = sorted(copy.deepcopy(list(make_rows(40))), key=lambda row: row["image_id"])
    chosen = next(row for row in rows if row["regions"] and row is not rows[0])
    chosen.update(labels=[1], scores=[1.0])
    return rows, rows.index(chosen)


def changed_rows(field, value):
    rows, row = valid_rows()
    *path, last = (int(key) if key.isdigit() else key for key in field.split("."))
    holder = rows[row]
    for key in path:
        holder = holder[key]
    holder[last] = value
    return rows, row


def test_valid_rows():
    rows, _ = valid_rows()
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    assert find_invalid_row(table, len(CLASSES)) is None
    assert find_invalid_row(table.slice(0, 0), len(CLASSES)) is None
    assert find_invalid_row(table.select(["image_id", "scores"]), len(CLASSES)) is None


@pytest.mark.parametrize(("field", "value", "column", "reason"), CHANGES)
def test_an_invalid_value(field, value, column, reason):
    rows, row = changed_rows(field, value)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    found = find_invalid_row(table, len(CLASSES))
    assert (found.row, found.column) == (row, column)
    assert reason in found.reason
    pieces = pa.concat_tables([table.slice(0, 3), table.slice(3)])
    assert find_invalid_row(pieces, len(CLASSES)) == found
    later = find_invalid_row(table.slice(row), len(CLASSES))
    assert later.row == 0


@pytest.mark.parametrize(("field", "value", "column", "reason"), CHANGES[1::4])
def test_rows_are_checked_when_they_are_read(tmp_path, field, value, column, reason):
    rows, row = changed_rows(field, value)
    release = make_release(tmp_path / "release", rows=valid_rows()[0], rows_per_file=100)
    path = release.path_of(release.files_of("regions")[0])
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    with pytest.raises(ReleaseError) as error:
        list(release.batches("regions"))
    message = str(error.value)
    assert message.startswith(f"{path}, row {row}: `{column}` ")
    assert reason in message

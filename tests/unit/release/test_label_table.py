"""Reading a release's labels as arrays."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from release_folder import write_release

from hf_relabel.errors import ReleaseError
from hf_relabel.hub.releases import load_labels
from hf_relabel.release.label_table import label_table
from hf_relabel.release.reader import Release

NAMES = ["bird", "cat", "dog"]
ROWS = [
    {"image_id": "a", "label": 0, "labels": [0, 2], "scores": [1.0, 0.5], "label_score": 0.25},
    {"image_id": "b", "label": 1, "labels": [], "scores": []},
    {"image_id": "c", "label": 2, "labels": [2], "scores": [1.0]},
]


def test_label_sets_as_arrays(tmp_path):
    table = load_labels(str(write_release(tmp_path / "release", NAMES, ROWS)))
    assert (table.class_names, table.image_ids, len(table)) == (NAMES, ["a", "b", "c"], 3)
    assert table.original.tolist() == [0, 1, 2]
    assert table.offsets.tolist() == [0, 2, 2, 3]
    assert table.rows.tolist() == [0, 0, 2]
    assert table.classes.tolist() == [0, 2, 2]
    assert table.scores.tolist() == [1.0, 0.5, 1.0]
    np.testing.assert_array_equal(table.label_scores, [0.25, np.nan, np.nan])
    assert table.regions is None


def test_regions_are_read_on_request(tmp_path):
    release = Release.open(write_release(tmp_path / "release", NAMES, ROWS))
    assert label_table(release, with_regions=True).regions.to_pylist() == [[], [], []]


def test_another_split_than_the_one_asked_for(tmp_path):
    folder = str(write_release(tmp_path / "release", NAMES, ROWS, split="test"))
    assert load_labels(folder, "test").image_ids == ["a", "b", "c"]
    with pytest.raises(ReleaseError, match="has the split 'test', not 'val'"):
        load_labels(folder, "val")


def _replace(folder, change):
    """Replace the rows of the labels by changed ones."""
    release = Release.open(folder)
    path = release.path_of(release.files_of("labels")[0])
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    names = [name for name in table.column_names if name in rows[0]]
    pq.write_table(pa.Table.from_pylist(rows, table.select(names).schema), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [row.pop("labels") for row in rows], "has no column 'labels'"),
        (lambda rows: rows.append(rows[0]), "has 4 rows, manifest.json says 3"),
        (lambda rows: rows[1].update(image_id="a"), "row 1: `image_id` 'a' does not follow"),
        (
            lambda rows: rows[0].update(scores=[1.0]),
            "row 0: `scores` does not have exactly one score",
        ),
        (lambda rows: rows[0].update(labels=[0, 3]), "row 0: `labels` has class 3, but valid classes are 0 to 2"),
        (lambda rows: rows[0].update(label=-1), "row 0: `label` has class -1"),
    ],
)
def test_rows_that_are_not_valid(tmp_path, change, message):
    folder = write_release(tmp_path / "release", NAMES, ROWS)
    _replace(folder, change)
    with pytest.raises(ReleaseError, match=message):
        load_labels(str(folder))


def test_what_is_not_a_release(tmp_path):
    with pytest.raises(ReleaseError, match="not a release"):
        load_labels(str(tmp_path))
    with pytest.raises(ReleaseError, match="not a release"):
        load_labels(str(tmp_path / "nowhere"))

"""Reading a release's labels."""

import pytest
from release_folder import write_release

from hf_relabel.errors import ReleaseError
from hf_relabel.release.table import load_labels

NAMES = ["bird", "cat", "dog"]
ROWS = [
    {"image_id": "a", "label": 0, "labels": [0, 2], "scores": [1.0, 0.5]},
    {"image_id": "b", "label": 1, "labels": [], "scores": []},
    {"image_id": "c", "label": 2, "labels": [2], "scores": [1.0]},
]


def test_release_folder(tmp_path):
    table = load_labels(str(write_release(tmp_path, NAMES, ROWS)))
    assert (table.class_names, table.image_ids, len(table)) == (NAMES, ["a", "b", "c"], 3)
    assert table.original.tolist() == [0, 1, 2]
    assert table.offsets.tolist() == [0, 2, 2, 3]
    assert table.rows.tolist() == [0, 0, 2]
    assert table.classes.tolist() == [0, 2, 2]
    assert table.need_scores("a test").tolist() == [1.0, 0.5, 1.0]
    assert table.regions is None


def test_splits_are_told_apart(tmp_path):
    write_release(tmp_path, NAMES, ROWS)
    write_release(tmp_path, NAMES, ROWS[:1], split="test")
    assert load_labels(str(tmp_path), "test").image_ids == ["a"]
    with pytest.raises(ReleaseError, match="name a split; it has test, train"):
        load_labels(str(tmp_path))
    with pytest.raises(ReleaseError, match="split 'val' is not there; it has test, train"):
        load_labels(str(tmp_path), "val")


def test_what_is_no_release(tmp_path):
    with pytest.raises(ReleaseError, match="no release here"):
        load_labels(str(tmp_path))
    with pytest.raises(ReleaseError, match="neither a release folder nor a dataset on the Hub"):
        load_labels(str(tmp_path / "nowhere"))
    write_release(tmp_path / "a", NAMES, ROWS, drop=("labels",))
    with pytest.raises(ReleaseError, match="the column 'labels' is missing"):
        load_labels(str(tmp_path / "a"))
    write_release(tmp_path / "b", NAMES, [ROWS[0], ROWS[0]])
    with pytest.raises(ReleaseError, match="1 image ids occur twice"):
        load_labels(str(tmp_path / "b"))
    (write_release(tmp_path / "c", NAMES, ROWS) / "data/labels/train-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ReleaseError, match="damaged"):
        load_labels(str(tmp_path / "c"))

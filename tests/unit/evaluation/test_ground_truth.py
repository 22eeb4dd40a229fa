"""Truth files in every format, and matching them with image ids."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_relabel.errors import SourceError
from hf_relabel.evaluation.ground_truth import Truth, labels_of, read_truth

NAMES = ["bird", "cat", "dog"]


def _lists(matrix):
    return [np.flatnonzero(row).tolist() for row in matrix]


def _write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def test_lists_follow_the_order_of_file_names_not_of_folders(tmp_path):
    truth = read_truth(_write(tmp_path / "real.json", [[0], [1, 2], []]))
    ids = ["z/001.jpg", "a/003.jpg", "m/002.jpg"]
    assert _lists(truth.of(ids, NAMES)) == [[0], [], [1, 2]]


def test_imagenet_validation_names_contain_their_position_so_a_subset_works(tmp_path):
    truth = read_truth(_write(tmp_path / "real.json", [[0], [1], [2]]))
    ids = ["n2/ILSVRC2012_val_00000003.JPEG", "n1/ILSVRC2012_val_00000001.JPEG"]
    assert _lists(truth.of(ids, NAMES)) == [[2], [0]]
    with pytest.raises(SourceError, match="has 3 lists, but an image has number 4"):
        truth.of(["ILSVRC2012_val_00000004.JPEG"], NAMES)


def test_lists_for_another_number_of_images_are_refused(tmp_path):
    truth = read_truth(_write(tmp_path / "real.json", [[0], [1]]))
    with pytest.raises(SourceError, match="has 2 lists in file-name order, but there are 3 images"):
        truth.of(["a", "b", "c"], NAMES)


def test_rows_with_ids_in_every_format(tmp_path):
    rows = [{"image_id": "a", "labels": [0, 2]}, {"image_id": "b", "labels": ["cat"]}, {"image_id": "c", "labels": []}]
    files = [
        _write(tmp_path / "t.json", {row["image_id"]: row["labels"] for row in rows}),
        _write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)) + "\n"),
    ]
    for file in files:
        assert _lists(read_truth(file).of(["b", "a"], NAMES)) == [[1], [0, 2]]
    table = pa.table({"image_id": ["a", "b"], "all": [["dog", "bird"], ["cat"]]})
    pq.write_table(table, tmp_path / "t.parquet")
    truth = read_truth(str(tmp_path / "t.parquet"), column="all")
    assert _lists(truth.of(["b", "a"], NAMES)) == [[1], [0, 2]]


def test_bare_file_names_and_indices_written_as_text(tmp_path):
    truth = read_truth(_write(tmp_path / "v2.json", {"a.jpeg": ["0", "2"], "b.jpeg": [1], "c.jpeg": []}))
    assert _lists(truth.of(["1/b.jpeg", "0/a.jpeg", "1/c.jpeg"], NAMES)) == [[1], [0, 2], []]
    # text that is both a name and an index is a name
    assert _lists(truth.of(["1/b.jpeg", "0/a.jpeg"], ["2", "1", "0"])) == [[1], [0, 2]]
    # two images with the same file name cannot be distinguished without their folders
    with pytest.raises(SourceError, match="2 of 2 image ids have no entry"):
        truth.of(["0/a.jpeg", "1/a.jpeg"], NAMES)
    with pytest.raises(SourceError, match="labels are not among the 2 classes: '2'"):
        truth.of(["0/a.jpeg"], NAMES[:2])


def test_objects_with_a_class(tmp_path):
    row = {"image_id": "a", "label": "cat", "objects": [{"class": "cat"}, {"class": "dog"}, {"class": "cat"}]}
    truth = read_truth(_write(tmp_path / "truth.jsonl", json.dumps(row)))
    assert _lists(truth.of(["a"], NAMES)) == [[1, 2]]
    assert labels_of({"category": [4, 4, 7], "bbox": [1, 2, 3]}, "x") == [4, 7]
    assert labels_of(3, "x") == [3]
    with pytest.raises(SourceError, match="an object has no `class`"):
        labels_of([{"bbox": []}], "x")
    with pytest.raises(SourceError, match="labels must be classes, or objects"):
        labels_of([1.5], "x")


def test_unmatched_ids_are_counted_and_three_are_shown():
    truth = Truth("truth.json", {"train/0.jpg": [0]})
    with pytest.raises(
        SourceError, match=r"4 of 5 image ids have no entry in truth.json: 'a', 'b', 'c'; an id there is"
    ) as e:
        truth.of(["a", "b", "train/0.jpg", "c", "d"], NAMES)
    assert "'train/0.jpg'" in str(e.value)


@pytest.mark.parametrize("label", ["horse", 3, -1])
def test_unknown_classes(label):
    with pytest.raises(SourceError, match="1 labels are not among the 3 classes: "):
        Truth("truth.json", {"a": [0, label]}).of(["a"], NAMES)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.json", "{", "cannot be read"),
        ("t.json", '{"a": 1}', "must be a list of lists"),
        ("t.json", "3", "must be a list of lists"),
        ("t.jsonl", '{"labels": [1]}', "row 1 has no 'image_id'"),
        ("t.jsonl", '{"image_id": "a"}', "row 1 has no 'labels'"),
        ("t.jsonl", '{"image_id": "a", "labels": []}\n' * 2, "1 image ids occur more than once"),
        ("t.parquet", "text", "cannot be read"),
        ("t.csv", "a,b", "must be a .json, .jsonl or .parquet file"),
    ],
)
def test_unreadable_truth(tmp_path, name, text, message):
    with pytest.raises(SourceError, match=message):
        read_truth(_write(tmp_path / name, text))


def test_missing_truth():
    with pytest.raises(SourceError, match="no such file or dataset"):
        read_truth("nowhere.json")


def test_local_dataset_folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.table({"image_id": ["a", "b"], "labels": [[0], [1, 2]]}), folder / "test.parquet")
    assert _lists(read_truth(str(folder)).of(["b"], NAMES)) == [[1, 2]]
    with pytest.raises(SourceError, match="no column 'classes'; the columns are image_id, labels"):
        read_truth(str(folder), column="classes")

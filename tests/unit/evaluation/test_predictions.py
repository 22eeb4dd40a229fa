"""Prediction files and class matching."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_relabel.errors import SourceError
from hf_relabel.evaluation import predictions
from hf_relabel.evaluation.predictions import Predictions, load_predictions, match_classes, save_predictions

SCORES = np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], np.float32)


def test_save_and_load(tmp_path):
    save_predictions(tmp_path / "p.parquet", Predictions(SCORES, ["a", "b", "c"], ["cat", "dog"]))
    loaded = load_predictions(tmp_path / "p.parquet")
    np.testing.assert_array_equal(loaded.scores, SCORES)
    assert (loaded.image_ids, loaded.class_names) == (["a", "b", "c"], ["cat", "dog"])
    assert loaded.rows_of(["c", "a"], Path("p")).tolist() == [2, 0]
    with pytest.raises(SourceError, match="2 of 3 image ids have no prediction in p: 'x', 'y'; an id there is"):
        loaded.rows_of(["x", "a", "y"], Path("p"))


def test_arrays_are_in_the_order_of_file_names(tmp_path):
    np.save(tmp_path / "p.npy", SCORES)
    loaded = load_predictions(tmp_path / "p.npy")
    assert loaded.rows_of(["b/1.jpg", "a/2.jpg", "c/0.jpg"], Path("p")).tolist() == [1, 2, 0]
    with pytest.raises(SourceError, match="has 3 rows, but there are 2 images"):
        loaded.rows_of(["a", "b"], Path("p"))


def test_files_that_are_not_predictions(tmp_path):
    (tmp_path / "text.parquet").write_text("scores")
    (tmp_path / "text.npy").write_text("scores")
    np.save(tmp_path / "flat.npy", SCORES[0])
    np.save(tmp_path / "nan.npy", SCORES * np.nan)
    np.save(tmp_path / "ints.npy", SCORES.astype(int))
    np.save(tmp_path / "pickled.npy", np.array([None]), allow_pickle=True)
    pq.write_table(pa.table({"image_id": ["a"]}), tmp_path / "bare.parquet")
    pq.write_table(pa.table({"image_id": ["a", "b"], "scores": [[0.5], [0.5, 0.5]]}), tmp_path / "ragged.parquet")
    for name in ("text.parquet", "text.npy", "pickled.npy", "missing.npy"):
        with pytest.raises(SourceError, match="cannot be read as predictions"):
            load_predictions(tmp_path / name)
    for name in ("flat.npy", "nan.npy", "ints.npy"):
        with pytest.raises(SourceError, match="must contain finite scores"):
            load_predictions(tmp_path / name)
    with pytest.raises(SourceError, match="no column 'scores'"):
        load_predictions(tmp_path / "bare.parquet")
    with pytest.raises(SourceError, match="scores of the same classes"):
        load_predictions(tmp_path / "ragged.parquet")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY\x01\x00\x05\x00((((\n", b"\x93NUMPY\x01\x00\x0a\x00" + b"(" * 10, b"\x93NUMPY", b"\0" * 99],
)
@pytest.mark.parametrize("name", ["p.npy", "p.parquet"])
def test_files_with_any_content(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read as predictions"):
        load_predictions(tmp_path / name)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p.npy")
    with pytest.raises(SourceError, match="not a regular file"):
        load_predictions(tmp_path / "p.npy")


@pytest.mark.parametrize("scores", [["x"], [[1]], [["x"]], [None], [[[0.5]]], [0.5]])
def test_scores_of_another_type(tmp_path, scores):
    pq.write_table(pa.table({"image_id": ["a"], "scores": scores}), tmp_path / "p.parquet")
    with pytest.raises(SourceError, match="`scores` must be a list of numbers"):
        load_predictions(tmp_path / "p.parquet")


@pytest.mark.parametrize("names", [5, [1, 2], "ab", {"a": 1}])
def test_class_names_of_another_type(tmp_path, names):
    table = pa.table({"image_id": ["a"], "scores": [[0.5, 0.5]]})
    text = json.dumps({"class_names": names})
    pq.write_table(table.replace_schema_metadata({predictions._KEY: text}), tmp_path / "p.parquet")
    with pytest.raises(SourceError, match="class names are not a list of names"):
        load_predictions(tmp_path / "p.parquet")


def test_classes_are_matched_by_name():
    assert match_classes(["a", "b", "c"], ["c", "a"], "name", "model").tolist() == [2, 0]
    with pytest.raises(SourceError, match=r"model: lacks 2 of the 3 classes of the images: 'x', 'y'"):
        match_classes(["a", "b"], ["x", "a", "y"], "name", "model")


SYNSETS = ["tench, Tinca tinca", "crane", "drake", "crane", "cab, hack, taxi, taxicab", "Crane fly"]
"""Names as classifiers of ImageNet have them."""


@pytest.mark.parametrize("background", [[], ["background"]])
def test_classes_of_imagenet_have_several_names(background):
    ours = [*background, *SYNSETS]
    first = len(background)
    theirs = ["tench", "crane (bird)", "drake", "crane (machine)", "taxi", "crane fly"]
    assert match_classes(ours, theirs, "name", "model").tolist() == [first + place for place in range(6)]
    assert match_classes(ours, ["taxicab", "Tench"], "name", "model").tolist() == [first + 4, first]
    with pytest.raises(SourceError, match=r"lacks 1 of the 2 classes of the images: 'crane \(bird\)'"):
        match_classes(ours, ["tench", "crane (bird)"], "name", "model")  # one of two
    with pytest.raises(SourceError, match="lacks 2 of the 3"):
        match_classes(["cab, taxi", "drake"], ["taxi (car)", "taxi (boat)", "drake"], "name", "model")


def test_classes_are_matched_by_index_only_if_their_number_is_equal():
    assert match_classes(["a", "b"], ["x", "y"], "index", "model").tolist() == [0, 1]
    with pytest.raises(SourceError, match="match them by index"):
        match_classes(["a", "b"], ["x", "y"], "name", "model")
    with pytest.raises(SourceError, match="has 2 classes, but the images have 3"):
        match_classes(["a", "b"], ["x", "y", "z"], "index", "model")

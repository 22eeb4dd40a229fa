"""Rows that do not fit in memory are sorted like those that do."""

import random

import pyarrow as pa
import pytest

from hf_relabel.sources import sorted_rows
from hf_relabel.sources.sorted_rows import RowSorter

NAMES = ["a-b/x", "a/x", "a/é", "a/z", "a/\U0001f600", "a/\uffee", "B/1", "b/10", "b/2", "ü/1"]


@pytest.fixture
def small_runs(monkeypatch):
    monkeypatch.setattr(sorted_rows, "RUN_ROWS", 40)
    monkeypatch.setattr(sorted_rows, "BATCH_ROWS", 7)


def sorted_by(scratch, ids: list[str], step: int = 13) -> list[tuple[str, int]]:
    sorter = RowSorter(scratch)
    for start in range(0, len(ids), step):
        part = ids[start : start + step]
        sorter.add(pa.table({"image_id": part, "row": range(start, start + len(part))}))
    rows = pa.concat_tables(sorter.merged()).to_pylist()
    return [(row["image_id"], row["row"]) for row in rows]


@pytest.mark.parametrize("order", ["sorted", "reversed", "shuffled"])
def test_runs_on_disk_are_merged_in_the_order_of_python(tmp_path, small_runs, order):
    ids = sorted(f"{name}{number:03d}" for name in NAMES for number in range(50))
    expected = list(ids)
    if order != "sorted":
        random.Random(0).shuffle(ids) if order == "shuffled" else ids.reverse()
    found = sorted_by(tmp_path, ids)
    assert [image_id for image_id, _ in found] == expected
    assert all(ids[row] == image_id for image_id, row in found)
    assert found == sorted_by(None, ids)
    assert not list(tmp_path.iterdir())  # what was merged is removed


def test_equal_ids_are_neighbors_in_their_first_order(tmp_path, small_runs):
    ids = [f"{number % 97:02d}" for number in range(400)]
    assert sorted_by(tmp_path, ids) == sorted((image_id, row) for row, image_id in enumerate(ids))


def test_nothing_to_sort(tmp_path):
    assert list(RowSorter(tmp_path).merged()) == []

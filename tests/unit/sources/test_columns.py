"""Columns on disk read like lists and arrays, and say when what they read is damaged."""

import os
import pickle

import numpy as np
import pyarrow as pa
import pytest

from hf_relabel.errors import StageError
from hf_relabel.sources import columns, stored_table
from hf_relabel.sources.columns import StoredIds, StoredNumbers, chunks, joined, looked_up, share_an_id, with_prefix
from hf_relabel.sources.stored_table import StoredTable, TableWriter

ROWS, GROUP = 23, 5
IDS, LABELS = [f"image-{row:02d}" for row in range(ROWS)], np.arange(ROWS, dtype=np.int32) % 4 - 1


@pytest.fixture
def stored(tmp_path, monkeypatch) -> StoredTable:
    """A table of 5 row groups, written in pieces of another size."""
    for module in (stored_table, columns):
        monkeypatch.setattr(module, "GROUP_ROWS", GROUP)
    table = pa.table({"image_id": IDS, "label": LABELS})
    with open(tmp_path / "table.parquet", "wb") as file:
        writer = TableWriter(file, table.schema)
        for start in range(0, ROWS, 7):
            writer.write(table.slice(start, 7))
        layout = writer.finish()
    return StoredTable(tmp_path / "table.parquet", layout)


def test_columns_read_like_lists_and_arrays(stored):
    ids, labels = StoredIds(stored), StoredNumbers(stored, "label")
    assert list(ids) == IDS
    assert ids == IDS
    assert ids != IDS[:-1]
    assert (ids[0], ids[-1], ids[7:18], ids[30:]) == (IDS[0], IDS[-1], IDS[7:18], [])
    assert np.array_equal(labels, LABELS)
    assert labels[4:11].dtype == np.int32
    assert (labels[3], labels[-1]) == (2, LABELS[-1])
    assert [part.tolist() for part in chunks(labels)] == [part.tolist() for part in chunks(LABELS)]
    with pytest.raises(IndexError, match="no row 23 of 23"):
        ids[ROWS]
    assert pickle.loads(pickle.dumps(ids))[7:9] == IDS[7:9]  # for a worker process


def test_parts_of_columns(stored):
    ids, labels = StoredIds(stored), StoredNumbers(stored, "label")
    part = with_prefix(ids.part(4, 16), "val/")
    assert part[1:3] == ["val/image-05", "val/image-06"]
    assert columns.without_prefix(part.part(0, 3), "image-")[:] == ["val/04", "val/05", "val/06"]
    both = joined([ids.part(20, 23), ["x", "y"]])
    assert both == [*IDS[20:], "x", "y"]
    assert (both[1], both[4], both[2:4]) == (IDS[21], "y", [IDS[22], "x"])
    numbers = joined([labels.part(0, 2), np.array([7], np.int32)])
    assert numbers[:].tolist() == [-1, 0, 7]
    new = looked_up(joined([labels.part(0, 4), labels.part(4, 6)]), np.array([30, 20, 10, -1], np.int32))
    assert new[:].tolist() == [-1, 30, 20, 10, -1, 30]


@pytest.mark.parametrize(("first", "second", "shared"), [
    ("abc", "def", False), ("bd", "ace", False), ("ad", "bcd", True), ("", "a", False), ("a", "", False),
    ("a", "a", True),
])  # fmt: skip
def test_an_id_in_both_of_two_sorted_columns(first, second, shared):
    assert share_an_id(iter(first), iter(second)) == share_an_id(iter(second), iter(first)) == shared


def test_damage_is_noticed_by_whoever_reads_it(stored):
    content = bytearray(stored.path.read_bytes())
    content[(stored.layout.ends[1] + stored.layout.ends[2]) // 2] ^= 1  # in the third group
    stored.path.write_bytes(content)
    ids = StoredIds(StoredTable(stored.path, stored.layout))
    assert ids[:10] == IDS[:10]
    with pytest.raises(StageError, match=r"table\.parquet: damaged"):
        ids[10:15]
    assert ids[15:] == IDS[15:]
    stored.path.write_bytes(content[:-1])
    with pytest.raises(StageError, match=r"table\.parquet: damaged"):
        StoredTable(stored.path, stored.layout)
    stored.path.unlink()
    with pytest.raises(StageError, match=r"table\.parquet: cannot be read"):
        StoredTable(stored.path, stored.layout)


def test_a_pipe_is_not_waited_for(stored):
    stored.path.unlink()
    os.mkfifo(stored.path)
    with pytest.raises(StageError, match="not a regular file"):
        StoredTable(stored.path, stored.layout)

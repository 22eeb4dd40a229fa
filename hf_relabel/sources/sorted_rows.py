"""Sort the rows of a listing by image id in bounded memory.

Runs of `RUN_ROWS` rows are sorted and kept on disk, then merged (external merge sort: Knuth, The Art of Computer
Programming, volume 3, section 5.4). A listing that fits in one run is sorted in memory.
"""

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from hf_relabel.sources.stored_table import writing

RUN_ROWS = 1 << 20
"""Rows that are sorted in memory."""

BATCH_ROWS = 8192
"""Rows that the merge keeps of each run."""


class RowSorter:
    """Collects rows and returns them sorted by `image_id`; equal ids keep the order in which they were added.

    Args:
        scratch: Folder for the runs; None sorts everything in memory.
    """

    def __init__(self, scratch: Path | None):
        self._scratch = scratch
        self._pending: list[pa.Table] = []
        self._held = 0
        self._runs: list[Path] = []

    def add(self, table: pa.Table) -> None:
        """Add rows; all tables have the same columns."""
        self._pending.append(table)
        self._held += len(table)
        if self._scratch is not None and self._held >= RUN_ROWS:
            self._spill(self._scratch)

    def merged(self) -> Iterator[pa.Table]:
        """All rows in order, in tables of any size; the runs are removed."""
        if self._runs and self._held and self._scratch is not None:
            self._spill(self._scratch)
        if not self._runs:
            if self._pending:
                yield self._taken()
            return
        heads = [head for head in map(_Head, self._runs) if head.next_batch()]
        while heads:
            end = min(head.last for head in heads)
            parts = [head.take(end) for head in heads if head.first <= end]
            window = pa.concat_tables(parts)
            yield window if len(parts) == 1 else _sorted(window)
            heads = [head for head in heads if head.left or head.next_batch()]

    def _taken(self) -> pa.Table:
        table = _sorted(pa.concat_tables(self._pending))
        self._pending, self._held = [], 0
        return table

    def _spill(self, scratch: Path) -> None:
        path = scratch / f"run-{len(self._runs):05d}.arrow"
        table = self._taken()
        with writing(path), open(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=BATCH_ROWS)
        self._runs.append(path)


class _Head:
    """The next rows of a run."""

    def __init__(self, path: Path):
        self._path = path
        self._file = pa.OSFile(str(path), "rb")
        self._stream = pa.ipc.open_stream(self._file)
        self._batch: pa.RecordBatch | None = None
        self.left = 0
        self.first = self.last = ""

    def next_batch(self) -> bool:
        """Read the next rows; at the end, remove the run and return False."""
        try:
            self._batch = self._stream.read_next_batch()
        except StopIteration:
            self._file.close()
            self._path.unlink()
            return False
        ids = self._batch["image_id"]
        self.left, self.first, self.last = len(ids), ids[0].as_py(), ids[-1].as_py()
        return True

    def take(self, end: str) -> pa.Table:
        """Remove the rows up to an id and return them."""
        assert self._batch is not None
        start = len(self._batch) - self.left
        ids = self._batch["image_id"]
        stop = len(ids) if self.last <= end else bisect_right(ids, end, start, key=lambda scalar: scalar.as_py())
        self.left = len(ids) - stop
        if self.left:
            self.first = ids[stop].as_py()
        return pa.Table.from_batches([self._batch.slice(start, stop - start)])


def _sorted(table: pa.Table) -> pa.Table:
    """The rows by `image_id`, which Arrow compares by bytes: for valid text that is Python's order."""
    table = table.combine_chunks()
    ids = pa.array([], pa.string()) if not len(table) else table["image_id"].chunk(0)
    if pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py() in (True, None):
        return table
    return table.take(pc.array_sort_indices(ids))

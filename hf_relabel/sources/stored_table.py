"""A table of images on disk that is read one group of rows at a time: memory does not grow with the images.

It is one Parquet file of row groups of `GROUP_ROWS` rows. Its hashes (`Layout`) are kept elsewhere, one per row group,
so that a process that reads a few rows checks what it reads, and no more.
"""

import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_relabel.config.checks import regular_file
from hf_relabel.errors import OutputError, StageError

GROUP_ROWS = 65_536
"""Rows per row group, some megabytes."""

KEPT_GROUPS = 2
"""Row groups that a process keeps: images are loaded ahead of their use, which may be in the group after."""


@dataclass(frozen=True)
class Layout:
    """Where the row groups of a stored table are, and their hashes.

    Args:
        rows: Number of rows.
        ends: The byte after each row group.
        sha256: Hash of each row group, then of what follows the last one.
    """

    rows: int
    ends: list[int]
    sha256: list[str]


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error while a file is written into one line.

    Raises:
        OutputError: The file cannot be written, for instance because the disk is full.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); free disk space, then run the same command again"
        ) from error


class TableWriter:
    """Writes a stored table to an open file, from tables of any size.

    Use it as a context manager inside that of the file: Arrow's writer must not be left open without it.

    Args:
        file: The file.
        schema: Columns of the table.
    """

    def __init__(self, file: IO[bytes], schema: pa.Schema):
        self._file = _Hashed(file)
        self._schema = schema
        self._writer = pq.ParquetWriter(
            self._file, schema, compression="zstd", use_dictionary=False, write_page_checksum=True
        )
        self._pending: list[pa.Table] = []
        self._held = 0
        self._rows = 0
        self._ends: list[int] = []
        self._hashes: list[str] = []

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        # After an error, the file is thrown away, so it does not matter whether its footer can be written.
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self._pending.append(table.cast(self._schema))
        self._held += len(table)
        while self._held >= GROUP_ROWS:
            self._write_group()

    def finish(self) -> Layout:
        """Write what is left, and the footer."""
        if self._held:
            self._write_group()
        self._writer.close()
        self._hashes.append(self._file.taken_digest())
        return Layout(self._rows, self._ends, self._hashes)

    def _write_group(self) -> None:
        table = pa.concat_tables(self._pending)
        group, rest = table.slice(0, GROUP_ROWS), table.slice(GROUP_ROWS)
        self._writer.write_table(group, row_group_size=GROUP_ROWS)
        self._rows += len(group)
        self._ends.append(self._file.size)
        self._hashes.append(self._file.taken_digest())
        self._pending, self._held = [rest], len(rest)


class StoredTable:
    """A stored table, open for reading. It can be pickled, and used by several threads.

    Args:
        path: The file.
        layout: Its row groups.
        remedy: What to do if it is damaged, for messages.

    Raises:
        StageError: It is missing or damaged. Damage in a row group is noticed when its rows are read.
    """

    def __init__(self, path: Path, layout: Layout, remedy: str = "run the command again"):
        self.path = path
        self.layout = layout
        self.remedy = remedy
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()
        self._read_span(len(self.layout.ends))
        try:
            self._metadata = pq.read_metadata(self.path)
        except (OSError, pa.ArrowException) as error:
            raise self._damage(f"cannot be read ({error})") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "layout": self.layout, "remedy": self.remedy}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __len__(self) -> int:
        return self.layout.rows

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        return list(self._metadata.schema.to_arrow_schema().names)

    def value(self, name: str, row: int) -> Any:
        """The value in a column and row."""
        return self._group(row // GROUP_ROWS)[name][row % GROUP_ROWS].as_py()

    def values(self, name: str, start: int, stop: int) -> pa.ChunkedArray:
        """Consecutive values of a column."""
        found = []
        while start < stop:
            number = start // GROUP_ROWS
            end = min(stop, (number + 1) * GROUP_ROWS)
            found.append(self._group(number)[name].slice(start % GROUP_ROWS, end - start))
            start = end
        kind = self._metadata.schema.to_arrow_schema().field(name).type
        return pa.chunked_array([chunk for part in found for chunk in part.chunks], kind)

    def _group(self, number: int) -> pa.Table:
        with self._lock:
            if number not in self._groups:
                while len(self._groups) >= KEPT_GROUPS:
                    self._groups.popitem(last=False)
                self._groups[number] = self._read_group(number)
            self._groups.move_to_end(number)
            return self._groups[number]

    def _read_group(self, number: int) -> pa.Table:
        self._read_span(number)
        try:
            with pq.ParquetFile(self.path, metadata=self._metadata, page_checksum_verification=True) as file:
                # Arrow's threads may still hold Python's bytes when the interpreter ends, which aborts the process.
                return file.read_row_group(number, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise self._damage(f"cannot be read ({error})") from error

    def _read_span(self, number: int) -> None:
        """Compare a row group, or what follows the last one, with its hash."""
        ends = self.layout.ends
        try:
            with open(regular_file(self.path), "rb") as file:
                file.seek(ends[number - 1] if number else 0)
                content = file.read(ends[number] - file.tell() if number < len(ends) else -1)
        except OSError as error:
            raise self._damage(f"cannot be read ({error.strerror or error})") from error
        if hashlib.sha256(content).hexdigest() != self.layout.sha256[number]:
            raise self._damage("damaged (its hash is not the one that was noted when it was written)")

    def _damage(self, what: str) -> StageError:
        return StageError(f"{self.path}: {what}; {self.remedy}")


class _Hashed:
    """A file that is written to, with the hash of what was written since the last one was taken."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: Any) -> int:
        self._digest.update(data)
        self.size += memoryview(data).nbytes
        return self._file.write(data)

    def taken_digest(self) -> str:
        """The hash, as hex digits."""
        digest, self._digest = self._digest, hashlib.sha256()
        return digest.hexdigest()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.closed = True

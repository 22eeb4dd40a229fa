"""Tables that are put on disk one after another and read back as one table, mapped into memory."""

from pathlib import Path

import pyarrow as pa

from hf_relabel.sources.stored_table import writing


class Spill:
    """Collects tables.

    Args:
        scratch: Folder for the tables; None keeps them in memory.
    """

    def __init__(self, scratch: Path | None):
        self._scratch = scratch
        self._tables: list[pa.Table] = []
        self._paths: list[Path] = []
        self._schema: pa.Schema | None = None
        self._stream: pa.RecordBatchStreamWriter | None = None

    def add(self, table: pa.Table) -> None:
        """Add rows; the columns and types may differ from those of other tables."""
        if self._scratch is None:
            self._tables.append(table)
            return
        if self._stream is None or table.schema != self._schema:
            self._end()
            self._schema = table.schema
            self._paths.append(self._scratch / f"columns-{len(self._paths):05d}.arrow")
            self._stream = pa.ipc.new_stream(str(self._paths[-1]), table.schema)
        with writing(self._paths[-1]):
            self._stream.write_table(table)

    def table(self) -> pa.Table:
        """All rows; a column that a table did not have is null in its rows.

        Raises:
            ArrowException: A column has types in two tables that do not go together.
        """
        self._end()
        mapped = [pa.ipc.open_stream(pa.memory_map(str(path))).read_all() for path in self._paths]
        return pa.concat_tables([*self._tables, *mapped], promote_options="permissive")

    def _end(self) -> None:
        if self._stream is not None:
            with writing(self._paths[-1]):
                self._stream.close()
            self._stream = None

"""Parquet files as a streamed dataset: labels and ids without the images, and the images of some rows."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError
from hf_relabel.sources.data_files import LITTLE_AHEAD, READ_AHEAD, FileOpener, place_columns
from hf_relabel.sources.image_dataset import check_image_column, class_labels, column_of, fields_of
from hf_relabel.sources.listing import scratch_folder
from hf_relabel.sources.rows import Rows
from hf_relabel.sources.spilled import Spill

BATCH = 32
"""Rows that are decoded at a time: the images of a whole row group need not fit in memory."""


class ParquetFiles:
    """The files of a split. The place of an image is its file, its row group, and its row in the group.

    Args:
        config: The source's settings.
        opener: Opens the files.
        features: Features from the dataset's card; None to read them from the first file.
    """

    part_columns = 2

    def __init__(self, config: SourceConfig, opener: FileOpener, features: Any = None):
        self.config = config
        self.opener = opener
        self.features = features

    def rows(self, scratch: Path | None = None) -> Rows:
        """The rows of all files; image bytes are not read.

        Args:
            scratch: Folder for the other columns; None keeps them in memory.

        Raises:
            SourceError: A file cannot be read, or the image column has no images that are inside the files.
        """
        import datasets

        columns, places = Spill(scratch_folder(scratch)), Spill(scratch_folder(scratch))
        for number in range(len(self.opener.urls)):
            with self.opener.reading(number), self.opener.open(number, LITTLE_AHEAD) as raw:
                file = pq.ParquetFile(raw)
                if self.features is None:
                    self.features = datasets.Features.from_arrow_schema(file.schema_arrow)
                columns.add(file.read(columns=self._columns(file.schema_arrow)))
                counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                group_of_row = np.repeat(np.arange(len(counts)), counts)
                row_of_group = np.arange(sum(counts)) - np.repeat(np.cumsum(counts) - counts, counts).astype(np.int64)
                place = [np.full(len(group_of_row), number), group_of_row, row_of_group]
                places.add(pa.table(place_columns(np.stack(place, axis=1))))
        try:
            table, where = columns.table(), places.table()
        except pa.ArrowException as error:
            raise SourceError(f"{self.config.path}: its files do not have the same columns ({error})") from error
        fields = fields_of(self.features)
        rows = Rows(
            self.config.path,
            len(where),
            list(fields),
            lambda name: column_of(table, name),
            lambda: self._paths(table),
            lambda start, stop: {name: where[name][start:stop] for name in where.column_names},
            class_labels(fields, self.config),
        )
        if self.config.image_column in fields:
            check_image_column(fields[self.config.image_column], self.config)
            if getattr(fields[self.config.image_column], "dtype", "") in ("string", "large_string"):
                raise SourceError(
                    f"{self.config.path}: the column {self.config.image_column!r} has paths instead of images, which "
                    "cannot be streamed; set --source.streaming false"
                )
        return rows

    def read(self, places: np.ndarray) -> Iterator[bytes | None]:
        """Read the images at sorted places, int64 [N, 3]; None where a row has no image.

        Raises:
            SourceError: A file cannot be read.
        """
        for number, of_file in itertools.groupby(places.tolist(), key=lambda place: place[0]):
            with self.opener.reading(number), self.opener.open(number) as raw:
                file = pq.ParquetFile(raw, pre_buffer=False, buffer_size=READ_AHEAD)
                for group, of_group in itertools.groupby(of_file, key=lambda place: place[1]):
                    yield from self._read_group(file, group, [place[2] for place in of_group])

    def _read_group(self, file: pq.ParquetFile, group: int, rows: list[int]) -> Iterator[bytes | None]:
        """The images of sorted rows of a row group; what is behind the last one is not read."""
        name = self.config.image_column
        is_struct = pa.types.is_struct(file.schema_arrow.field(name).type)
        column = f"{name}.bytes" if is_struct else name
        start, place = 0, 0
        for batch in file.iter_batches(BATCH, row_groups=[group], columns=[column], use_threads=False):
            values = batch.column(0)
            if is_struct:
                values = pc.struct_field(values, "bytes")
            while place < len(rows) and rows[place] < start + len(values):
                yield values[rows[place] - start].as_py()
                place += 1
            if place == len(rows):
                return
            start += len(values)

    def _columns(self, schema: pa.Schema) -> list[str]:
        """The columns that ids and labels need."""
        wanted = [self.config.label_column, self.config.id_column]
        columns = {name if name in schema.names else name.partition(".")[0] for name in wanted if name is not None}
        columns &= set(schema.names)
        if self._has_paths(schema):
            columns.add(f"{self.config.image_column}.path")
        return sorted(columns)

    def _has_paths(self, schema: pa.Schema) -> bool:
        name = self.config.image_column
        kind = schema.field(name).type if name in schema.names else pa.null()
        return pa.types.is_struct(kind) and kind.get_field_index("path") >= 0

    def _paths(self, table: pa.Table) -> pa.ChunkedArray:
        if not self._has_paths(table.schema):
            return pa.chunked_array([pa.nulls(len(table), pa.string())])
        return column_of(table, f"{self.config.image_column}.path")

"""Open a release folder: its manifest and its rows, which are checked as they are read."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_relabel.config.checks import regular_file
from hf_relabel.errors import ReleaseError
from hf_relabel.release.layout import MANIFEST, ReleaseFile
from hf_relabel.release.manifest import parse_manifest
from hf_relabel.release.rows import COLUMN_TYPES, CORRECTED_COLUMNS, MAX_TEXT, InvalidRow, columns_in, find_invalid_row

_BATCH_ROWS = 4096

MAX_MASK_BYTES = 1 << 20
"""Bytes of run lengths per mask, on average over a column."""

_DICTIONARY = 8 << 20
"""Bytes that a column of few values may have besides: writers begin with a dictionary of up to 1 MiB."""

_MAX_COLUMN = 4 << 30
"""Bytes of a column of a row group, without compression."""

ADDED_COLUMNS = {"label_score": pa.float32()}
"""Columns that releases of schema version 1 do not have."""

ADDED_TO_REGIONS = {"generator": pa.string()}
"""Fields of a region that releases of schema version 1 do not have."""

_REGIONS_OF_VERSION_1 = pa.list_(
    pa.struct([field for field in COLUMN_TYPES["regions"].value_type if field.name not in ADDED_TO_REGIONS])
)


@dataclass(frozen=True)
class Release:
    """An opened release folder: its manifest, and its rows on demand.

    Args:
        folder: The folder.
        version: Its version.
        name: Display name of the dataset.
        split: Its split; of several the first.
        class_names: Names of the classes.
        files: All files but the manifest.
        statistics: Statistics of all rows (`release/statistics.py`).
        provenance: How it was made.
        of_splits: Statistics of each split, if there are several.
    """

    folder: Path
    version: str
    name: str
    split: str
    class_names: list[str]
    files: list[ReleaseFile] = field(repr=False)
    statistics: dict[str, Any] = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)
    of_splits: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: Path | str) -> "Release":
        """Open a release folder by its manifest. The data files are not read.

        Raises:
            ReleaseError: The manifest is missing, damaged, or has another schema version.
        """
        folder = Path(folder)
        try:
            text = regular_file(folder / MANIFEST).read_bytes()
        except OSError as error:
            raise ReleaseError(
                f"{folder}: not a release ({MANIFEST}: {error.strerror}); give the folder that `hf-relabel build` wrote"
            ) from error
        return cls.parse(text, folder)

    @classmethod
    def parse(cls, manifest: str | bytes, folder: Path) -> "Release":
        """Make a release from the text of its manifest; its files are expected in `folder`.

        Raises:
            ReleaseError: The manifest is damaged or has another schema version.
        """
        values = parse_manifest(manifest, folder / MANIFEST)
        return cls(
            folder=folder,
            version=values["version"],
            name=values["name"],
            split=values["split"],
            class_names=values["class_names"],
            files=values["files"],
            statistics=values["statistics"],
            provenance=values["provenance"],
            of_splits=values["splits"],
        )

    @property
    def splits(self) -> list[str]:
        """Names of the splits in their order."""
        return list(self.of_splits) or [self.split]

    def only(self, split: str | None) -> "Release":
        """Return the release with only one of its splits.

        Args:
            split: The split; None is the only one.

        Raises:
            ReleaseError: There is no such split, or there are several and none is named.
        """
        if split is None and len(self.splits) > 1:
            raise ReleaseError(f"{self.folder}: has the splits {', '.join(self.splits)}; name one with --split")
        if split not in (None, *self.splits):
            known = "the split" if len(self.splits) == 1 else "the splits"
            raise ReleaseError(f"{self.folder}: has {known} {', '.join(map(repr, self.splits))}, not {split!r}")
        if len(self.splits) == 1 or split is None:
            return self
        files = [file for file in self.files if file.split in (None, split)]
        return replace(self, split=split, files=files, statistics=self.of_splits[split], of_splits={})

    @property
    def num_images(self) -> int:
        """Number of images."""
        return int(self.statistics["images"])

    @property
    def is_corrected(self) -> bool:
        """Whether it has the columns of a release with corrections by hand, `source` and `checked_labels`.

        Raises:
            ReleaseError: A file cannot be read.
        """
        path = self.path_of(self.files_of("labels")[0])
        try:
            return any(name in pq.read_schema(regular_file(path)).names for name in CORRECTED_COLUMNS)
        except (pa.ArrowException, OSError) as error:
            raise ReleaseError(f"{path}: cannot be read as Parquet ({_first_line(error)})") from error

    def files_of(self, config_name: str) -> list[ReleaseFile]:
        """The Parquet files of a configuration in row order, one split after another."""
        return [file for file in self.files if file.config_name == config_name]

    def path_of(self, file: ReleaseFile) -> Path:
        """Path of a file of the release."""
        return self.folder / file.path

    def batches(self, config_name: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Iterate over the rows of a configuration in order, a few thousand at a time.

        Raises:
            ReleaseError: A file is missing, is not Parquet, lacks a column, or has an invalid row.
        """
        last: dict[str | None, str] = {}
        for file in self.files_of(config_name):
            for number, batch in enumerate(self.batches_of(file, columns)):
                if "image_id" in batch.schema.names and len(batch):
                    if not number and batch["image_id"][0].as_py() <= last.get(file.split, ""):
                        raise ReleaseError(
                            f"{self.path_of(file)}: its first image is not after the last one of the file before it; "
                            "build or download the release again"
                        )
                    last[file.split] = batch["image_id"][-1].as_py()
                yield batch

    def rows(self, config_name: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """Iterate over the rows of a configuration in order, as dictionaries.

        Raises:
            ReleaseError: A file is missing, is not Parquet, or lacks a column.
        """
        for batch in self.batches(config_name, columns):
            yield from batch.to_pylist()

    def batches_of(self, file: ReleaseFile, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Iterate over the rows of one Parquet file, a few thousand at a time.

        Columns that were added to releases since the file was written are null.

        Args:
            file: A file of a configuration.
            columns: The columns to read; None for all.

        Raises:
            ReleaseError: The file is missing, is not Parquet, lacks a column, or has an invalid row.
        """
        path = self.path_of(file)
        try:
            with pq.ParquetFile(regular_file(path), page_checksum_verification=True) as parquet:
                names = self._check_columns(parquet, file)
                wanted = list(columns_in(file.config_name, names)) if columns is None else columns
                stored = [name for name in wanted if name in names]
                first, last_id = 0, None
                for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=stored):
                    last_id = self._check_rows(path, first, batch, last_id)
                    yield _completed(batch, wanted)
                    first += batch.num_rows
        except (pa.ArrowException, OSError, MemoryError) as error:
            raise ReleaseError(
                f"{path}: cannot be read as Parquet ({_first_line(error)}); build or download the release again"
            ) from error

    def _check_columns(self, parquet: pq.ParquetFile, file: ReleaseFile) -> list[str]:
        """Refuse a file with other columns, classes or rows than the manifest says; returns its columns."""
        path, schema = self.path_of(file), parquet.schema_arrow
        if len(set(schema.names)) < len(schema.names):
            raise ReleaseError(f"{path}: not a file of a release, it has two columns of one name")
        for name in columns_in(file.config_name, schema.names):
            if name not in schema.names:
                if name in ADDED_COLUMNS:
                    continue
                raise ReleaseError(f"{path}: not a file of a release, it has no column {name!r}")
            kind, expected = schema.field(name).type, COLUMN_TYPES[name]
            if kind != expected and not (name == "regions" and kind == _REGIONS_OF_VERSION_1):
                raise ReleaseError(f"{path}: not a file of a release, its column {name!r} is {kind}, not {expected}")
        _check_sizes(parquet.metadata, path)
        if _class_names_of(schema) != self.class_names:
            raise ReleaseError(f"{path}: has other class names than {MANIFEST}; do not use this release")
        if parquet.metadata.num_rows != file.rows:
            raise ReleaseError(
                f"{path}: has {parquet.metadata.num_rows} rows, {MANIFEST} says {file.rows}; build or download the "
                "release again"
            )
        return list(schema.names)

    def _check_rows(self, path: Path, first: int, batch: pa.RecordBatch, last_id: str | None) -> str | None:
        """Refuse invalid rows; returns the last image id, if ids were read."""
        batch.validate(full=True)
        invalid = find_invalid_row(pa.Table.from_batches([batch]), len(self.class_names))
        if invalid is None and "version" in batch.schema.names:
            is_other = pc.not_equal(batch["version"], self.version).to_numpy(zero_copy_only=False)
            if is_other.any():
                invalid = InvalidRow(int(is_other.argmax()), "version", f"is not {self.version}")
        if invalid is None and "image_id" in batch.schema.names and len(batch):
            ids = pa.concat_arrays([pa.array([last_id or ""]), batch["image_id"]])
            is_late = pc.greater_equal(ids[:-1], ids[1:]).to_numpy(zero_copy_only=False)
            if is_late.any():
                place = int(is_late.argmax())
                invalid = InvalidRow(place, "image_id", f"{ids[place + 1].as_py()!r} does not follow the one before it")
            last_id = ids[-1].as_py()
        if invalid is not None:
            raise ReleaseError(
                f"{path}, row {first + invalid.row}: `{invalid.column}` {invalid.reason}; build or download the "
                "release again"
            )
        return last_id


def _check_sizes(metadata: pq.FileMetaData, path: Path) -> None:
    """Refuse a small file that stands for more than fits in memory, before a row is read.

    A value that is repeated is stored once, and compression makes nothing of a long run of equal bytes.
    """
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            is_mask = column.path_in_schema.endswith("counts")
            limit = column.num_values * (MAX_MASK_BYTES if is_mask else MAX_TEXT) + _DICTIONARY
            if column.total_uncompressed_size > min(limit, _MAX_COLUMN):
                raise ReleaseError(
                    f"{path}: its column {column.path_in_schema} has {column.total_uncompressed_size:,} bytes for "
                    f"{column.num_values:,} values; do not use this release"
                )


def _class_names_of(schema: pa.Schema) -> list[str] | None:
    """The class names that a data file gives to the datasets library; None if there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = [features["label"]["names"], features["labels"][0]["names"]]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    return found[0] if found[0] == found[1] else None


def _completed(batch: pa.RecordBatch, columns: list[str]) -> pa.RecordBatch:
    """The given columns of a batch; what was added to releases since it was written is null, also in its regions."""
    arrays = []
    for name in columns:
        if name not in batch.schema.names:
            arrays.append(pa.nulls(len(batch), ADDED_COLUMNS[name]))
        elif name == "regions":
            arrays.append(_completed_regions(batch[name]))
        else:
            arrays.append(batch[name])
    return pa.RecordBatch.from_arrays(arrays, columns)


def _completed_regions(column: pa.ListArray) -> pa.ListArray:
    added = {name: kind for name, kind in ADDED_TO_REGIONS.items() if column.type.value_type.get_field_index(name) < 0}
    if not added:
        return column
    regions = column.flatten()
    fields = [*column.type.value_type, *(pa.field(name, kind) for name, kind in added.items())]
    parts = [*regions.flatten(), *(pa.nulls(len(regions), kind) for kind in added.values())]
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(parts, fields=fields))


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]

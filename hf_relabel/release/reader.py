"""Open a release folder: its manifest, its rows, and a check that its files are intact."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_relabel.errors import ReleaseError
from hf_relabel.release.layout import MANIFEST, ReleaseFile
from hf_relabel.release.rows import find_invalid_row
from hf_relabel.run.store import sha256_of
from hf_relabel.schema import READABLE_VERSIONS

_BATCH_ROWS = 4096

ADDED_COLUMNS = {"label_score": pa.float32()}
"""Columns that releases of schema version 1 do not have."""

ADDED_TO_REGIONS = {"generator": pa.string()}
"""Fields of a region that releases of schema version 1 do not have."""


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
    files: list[ReleaseFile]
    statistics: dict[str, Any]
    provenance: dict[str, Any]
    of_splits: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path | str) -> "Release":
        """Open a release folder by its manifest. The data files are not read.

        Raises:
            ReleaseError: The manifest is missing, damaged, or has another schema version.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        try:
            text = path.read_text(encoding="utf-8")
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
        path = folder / MANIFEST
        try:
            values = json.loads(manifest)
            found = values["schema_version"]
            if found not in READABLE_VERSIONS:
                readable = " and ".join(map(str, READABLE_VERSIONS))
                raise ReleaseError(
                    f"{path}: schema version {found}, but this hf_relabel reads {readable}; build the release again"
                )
            return cls(
                folder=folder,
                version=values["version"],
                name=values["name"],
                split=values["split"],
                class_names=values["class_names"],
                files=[ReleaseFile(**entry) for entry in values["files"]],
                statistics=values["statistics"],
                provenance=values["provenance"],
                of_splits=values.get("splits", {}),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ReleaseError(f"{path}: damaged manifest ({error}); build the release again") from error

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
            return "checked_labels" in pq.read_schema(path).names
        except (pa.ArrowInvalid, OSError) as error:
            raise ReleaseError(f"{path}: cannot be read as Parquet ({_first_line(error)})") from error

    def files_of(self, config_name: str) -> list[ReleaseFile]:
        """The Parquet files of a configuration in row order, one split after another."""
        return [file for file in self.files if file.config_name == config_name]

    def path_of(self, file: ReleaseFile) -> Path:
        """Path of a file of the release."""
        return self.folder / file.path

    def verify(self) -> None:
        """Read every file and compare its size and hash with the manifest.

        Raises:
            ReleaseError: A file is missing or was changed; the message names it.
        """
        for file in self.files:
            path = self.path_of(file)
            try:
                is_same = path.stat().st_size == file.bytes and sha256_of(path) == file.sha256
            except OSError as error:
                raise ReleaseError(f"{path}: cannot be read ({error.strerror}); build the release again") from error
            if not is_same:
                raise ReleaseError(f"{path}: changed since the release was built; build the release again")

    def batches(self, config_name: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Iterate over the rows of a configuration in order, a few thousand at a time.

        Raises:
            ReleaseError: A file is missing, is not Parquet, lacks a column, or has an invalid row.
        """
        for file in self.files_of(config_name):
            yield from self.batches_of(file, columns)

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
            with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
                names = parquet.schema_arrow.names
                wanted = list(dict.fromkeys([*names, *ADDED_COLUMNS])) if columns is None else columns
                missing = sorted(set(wanted) - set(names) - set(ADDED_COLUMNS))
                if missing:
                    raise ReleaseError(f"{path}: not a file of a release, it has no column {missing[0]!r}")
                stored = [name for name in wanted if name in names]
                first = 0
                for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=stored):
                    self._check(path, first, batch)
                    yield _completed(batch, wanted)
                    first += batch.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise ReleaseError(
                f"{path}: cannot be read as Parquet ({_first_line(error)}); build or download the release again"
            ) from error

    def _check(self, path: Path, first: int, batch: pa.RecordBatch) -> None:
        invalid = find_invalid_row(pa.Table.from_batches([batch]), len(self.class_names))
        if invalid is not None:
            raise ReleaseError(
                f"{path}, row {first + invalid.row}: `{invalid.column}` {invalid.reason}; build or download the "
                "release again"
            )


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

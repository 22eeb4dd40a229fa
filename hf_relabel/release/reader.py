"""Opening a release folder: its manifest, its rows, and whether its files are intact."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_relabel.errors import ReleaseError
from hf_relabel.release.layout import MANIFEST, ReleaseFile
from hf_relabel.run.store import sha256_of
from hf_relabel.schema import SCHEMA_VERSION


@dataclass(frozen=True)
class Release:
    """An opened release folder: its manifest, and its rows on demand."""

    folder: Path
    version: str
    name: str
    split: str
    class_names: list[str]
    files: list[ReleaseFile]
    statistics: dict[str, Any]
    provenance: dict[str, Any]

    @classmethod
    def open(cls, folder: Path | str) -> "Release":
        """Open a release folder by its manifest. Files are looked at by `verify` and `batches`.

        Raises:
            ReleaseError: No manifest, a damaged one, or one of another schema version.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            found = manifest["schema_version"]
        except OSError as error:
            raise ReleaseError(
                f"{folder}: not a release ({MANIFEST}: {error.strerror}); give the folder that `hf-relabel build` wrote"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ReleaseError(f"{path}: damaged manifest ({error}); build the release again") from error
        if found != SCHEMA_VERSION:
            raise ReleaseError(
                f"{path}: schema version {found}, this hf_relabel reads {SCHEMA_VERSION}; build the release again"
            )
        try:
            files = [ReleaseFile(**entry) for entry in manifest["files"]]
            kept = {key: manifest[key] for key in ("version", "name", "split", "class_names")}
            return cls(
                folder, **kept, files=files, statistics=manifest["statistics"], provenance=manifest["provenance"]
            )
        except (KeyError, TypeError) as error:
            raise ReleaseError(f"{path}: damaged manifest ({error}); build the release again") from error

    @property
    def num_images(self) -> int:
        """Images in the release."""
        return self.statistics["images"]

    def files_of(self, config_name: str) -> list[ReleaseFile]:
        """The Parquet files of a configuration, in row order."""
        return [file for file in self.files if file.config_name == config_name]

    def path_of(self, file: ReleaseFile) -> Path:
        """Where a file of the release lies."""
        return self.folder / file.path

    def verify(self) -> None:
        """Read every file and compare its size and hash with the manifest's.

        Raises:
            ReleaseError: A file is missing or altered; it is named.
        """
        for file in self.files:
            path = self.path_of(file)
            try:
                size = path.stat().st_size
                same = size == file.bytes and sha256_of(path) == file.sha256
            except OSError as error:
                raise ReleaseError(f"{path}: cannot be read ({error.strerror}); build the release again") from error
            if not same:
                raise ReleaseError(f"{path}: altered since the release was built; build the release again")

    def batches(self, config_name: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of a configuration in order, a few thousand at a time.

        Raises:
            ReleaseError: A file is missing or not Parquet.
        """
        for file in self.files_of(config_name):
            yield from self.batches_of(file, columns)

    def batches_of(self, file: ReleaseFile, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of one Parquet file, likewise."""
        path = self.path_of(file)
        try:
            with pq.ParquetFile(path) as parquet:
                yield from parquet.iter_batches(batch_size=4096, columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise ReleaseError(f"{path}: cannot be read as Parquet ({error}); build the release again") from error

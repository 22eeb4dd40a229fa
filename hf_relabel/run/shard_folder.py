"""The shards of one stage on disk: a table with a footer, the features that belong to it, and the stage's manifest.

The Parquet footer of a shard contains the fingerprint of everything the shard depends on, and the shape and hash of its
feature file. `manifest.json`, written last, contains the hash of every table. Whoever reads a shard checks what it
reads, once per process.
"""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_relabel.errors import DamagedFileError, StageError
from hf_relabel.run.store import (
    Fingerprint,
    atomic_open,
    cannot_write,
    clock,
    differences,
    read_record,
    sha256_of,
    write_record,
)
from hf_relabel.schema import SCHEMA_VERSION

FOOTER_KEY = b"hf_relabel"
MANIFEST = "manifest.json"

COMMANDS = {"proposals": "propose", "scores": "score", "labeler": "train", "regions": "label", "release": "build"}
"""The command that writes each folder of a run."""

ABANDONED_SECONDS = 600.0
"""A claim or a temporary file that has not been touched for longer was left by a process that was killed."""


@dataclass(frozen=True)
class ShardState:
    """The footer of a finished shard.

    Args:
        shard: Its number.
        digest: Hash of the inputs.
        inputs: Everything the shard depends on.
        rows: Rows of its table.
        counters: Counts to report.
        features: Shape, size in bytes and SHA-256 of the feature file; None for a stage without features.
        machine: What computed the shard; empty if the stage does not record it.
    """

    shard: int
    digest: str
    inputs: dict[str, Any]
    rows: int
    counters: dict[str, int]
    features: dict[str, Any] | None
    machine: str


class ShardFolder:
    """The shards of one stage in one folder, all with one fingerprint."""

    def __init__(self, folder: Path, stage: str, fingerprint: Fingerprint):
        self.folder = folder
        self.stage = stage
        self.fingerprint = fingerprint
        self._checked_features: set[int] = set()
        self._table_hashes: list[str] | None = None

    def path(self, shard: int) -> Path:
        """Path of a shard's table."""
        return self.folder / f"shard-{shard:05d}.parquet"

    def features_path(self, shard: int) -> Path:
        """Path of the pooled features of a shard's regions (`schema.FEATURES`)."""
        return self.folder / f"shard-{shard:05d}.npy"

    def damage(self, path: Path, what: str) -> DamagedFileError:
        """The one-line error for a file of this stage that is not as it was written."""
        command = COMMANDS.get(self.stage, self.stage)
        return DamagedFileError(
            f"{path}: {what}; make it again with `hf-relabel {command} --run.overwrite true` and this configuration"
        )

    def state(self, shard: int) -> ShardState | None:
        """Read the footer of a shard, whatever its fingerprint; None if there is no such file.

        Raises:
            DamagedFileError: The file cannot be read.
        """
        path = self.path(shard)
        try:
            return self._footer(path, pq.read_metadata(path))
        except FileNotFoundError:
            return None
        except (pa.ArrowException, OSError) as error:
            raise self.damage(path, f"cannot be read ({_first_line(error)})") from error

    def _footer(self, path: Path, metadata: pq.FileMetaData) -> ShardState:
        text = (metadata.metadata or {}).get(FOOTER_KEY)
        try:
            footer = json.loads(text or b"{}")
            check = footer.pop("check", None)
            state = ShardState(rows=metadata.num_rows, **footer)
        except (ValueError, TypeError, AttributeError) as error:
            raise self.damage(path, "damaged footer, or written by another version of hf_relabel") from error
        if check != _check_of(footer):
            raise self.damage(path, "damaged footer (its hash does not match its content)")
        return state

    def is_done(self, shard: int) -> bool:
        """Whether a shard is there with this fingerprint, and its feature file has the right size.

        A damaged shard is not done: the stage makes it again.
        """
        try:
            state = self.state(shard)
        except DamagedFileError:
            return False
        if state is None or state.digest != self.fingerprint.digest or state.shard != shard:
            return False
        return state.features is None or _size_of(self.features_path(shard)) == state.features["bytes"]

    def refuse_other_work(self, shards: int) -> None:
        """Raise StageError if a shard with another fingerprint is in the way, naming the differences."""
        for shard in range(shards):
            try:
                state = self.state(shard)
            except DamagedFileError:
                continue
            if state is None or state.digest == self.fingerprint.digest:
                continue
            changed = differences(state.inputs, self.fingerprint.inputs) or ["version of the tables"]
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise StageError(
                f"{self.folder}: holds work made with another configuration ({'; '.join(changed[:3])}{more}); "
                "choose another --run.dir, or redo it with --run.overwrite true"
            )

    def write(
        self,
        shard: int,
        table: pa.Table,
        counters: dict[str, int],
        features: np.ndarray | None = None,
        machine: str = "",
    ) -> None:
        """Write a shard's features, if it has any, and then its table with its footer, each atomically.

        Raises:
            StageError: A feature is not finite.
            OutputError: The files cannot be written.
        """
        # Until the new table is there, no footer may vouch for a feature file that is about to be replaced.
        self.path(shard).unlink(missing_ok=True)
        record = None
        if features is not None:
            if not np.isfinite(features).all():
                raise StageError(f"{self.features_path(shard)}: the features are not finite; nothing was written")
            with atomic_open(self.features_path(shard)) as file:
                hashed = _Hashed(file)
                np.save(hashed, features, allow_pickle=False)
            record = {"shape": list(features.shape), "bytes": hashed.size, "sha256": hashed.digest.hexdigest()}
            self._checked_features.add(shard)
        footer = {
            "shard": shard,
            "digest": self.fingerprint.digest,
            "inputs": self.fingerprint.inputs,
            "counters": counters,
            "features": record,
            "machine": machine,
        }
        text = json.dumps(footer | {"check": _check_of(footer)}, sort_keys=True)
        with atomic_open(self.path(shard)) as file:
            pq.write_table(
                table.replace_schema_metadata({FOOTER_KEY: text}), file, compression="zstd", write_page_checksum=True
            )

    def read(self, shard: int, columns: list[str] | None = None) -> pa.Table:
        """Read a finished shard's table; a field of a list of structs is named `proposals.list.element.patches`.

        Raises:
            DamagedFileError: The file is missing, truncated, or not the one that the manifest lists.
        """
        return self._read(shard, columns)[0]

    def _read(self, shard: int, columns: list[str] | None = None) -> tuple[pa.Table, ShardState, str]:
        """A shard's table, footer and hash, from one reading of the file."""
        path = self.path(shard)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise self.damage(path, f"cannot be read ({error.strerror or error})") from error
        digest = hashlib.sha256(content).hexdigest()
        listed = self._listed_hashes()
        if listed is not None and (shard >= len(listed) or listed[shard] != digest):
            raise self.damage(path, "damaged (its hash is not the one in the manifest)")
        try:
            with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
                state = self._footer(path, file.metadata)
                known = file.schema_arrow.names
                unknown = [name for name in columns or [] if name.partition(".")[0] not in known]
                if unknown:
                    raise self.damage(path, f"has no {unknown[0]}, as it was written by another version")
                # Arrow's threads may still hold Python's bytes when the interpreter ends, which aborts the process.
                table = file.read(columns=columns, use_threads=False).replace_schema_metadata(None)
        except (pa.ArrowException, OSError) as error:
            raise self.damage(path, f"damaged ({_first_line(error)})") from error
        return table, state, digest

    def _listed_hashes(self) -> list[str] | None:
        """The hashes of the tables in this stage's manifest; None before there is one."""
        if self._table_hashes is None and (manifest := self.manifest()) is not None:
            self._table_hashes = manifest["sha256"]
        return self._table_hashes

    def features(self, shard: int) -> np.ndarray:
        """Map the pooled features of a shard's regions from disk, see `schema.FEATURES`: float16 [rows, dim].

        Raises:
            DamagedFileError: The file is missing, truncated, or not the one that belongs to the shard's table.
        """
        path = self.features_path(shard)
        try:
            if shard not in self._checked_features:
                self._check_features(shard, self.state(shard))
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise self.damage(path, f"cannot be read ({_first_line(error)})") from error

    def _check_features(self, shard: int, state: ShardState | None) -> None:
        """Compare a feature file with the footer of its shard."""
        path = self.features_path(shard)
        record = state.features if state is not None else None
        if record is None:
            raise self.damage(self.path(shard), "missing, or lists no features")
        if _size_of(path) is None:
            raise self.damage(path, "missing")
        if sha256_of(path) != record["sha256"]:
            raise self.damage(path, "damaged (its hash is not the one in its shard's footer)")
        if list(np.load(path, mmap_mode="r", allow_pickle=False).shape) != record["shape"]:
            raise self.damage(path, "damaged (its shape is not the one in its shard's footer)")
        self._checked_features.add(shard)

    def damaged(self, shards: int, rows: Callable[[int], int]) -> list[DamagedFileError]:
        """Read every shard completely; returns an error for each that is damaged, after removing its table."""
        found = []
        for shard in range(shards):
            try:
                self._verify(shard, rows(shard))
            except DamagedFileError as error:
                self.path(shard).unlink(missing_ok=True)
                self._checked_features.discard(shard)
                found.append(error)
        return found

    def _verify(self, shard: int, rows: int) -> tuple[ShardState, int, str]:
        """A shard's footer, size and hash, after checking every byte of it."""
        table, state, digest = self._read(shard)
        if state.digest != self.fingerprint.digest or state.shard != shard or len(table) != rows:
            raise self.damage(self.path(shard), "another shard's or another run's file")
        if state.features is not None and shard not in self._checked_features:
            try:
                self._check_features(shard, state)
            except (OSError, ValueError, EOFError) as error:
                raise self.damage(self.features_path(shard), f"cannot be read ({_first_line(error)})") from error
        return state, self.path(shard).stat().st_size, digest

    def manifest(self) -> dict[str, Any] | None:
        """The stage's manifest if it has this fingerprint and all its files are there in full size, else None."""
        manifest = read_record(self.folder / MANIFEST)
        if manifest is None or manifest.get("digest") != self.fingerprint.digest:
            return None
        sizes = [_size_of(self.path(shard)) for shard in range(len(manifest["shards"]))]
        return manifest if sizes == manifest["bytes"] else None

    def write_manifest(self, rows: Callable[[int], int], shards: int) -> dict[str, Any]:
        """Check every shard, add up the counters and write `manifest.json`, last of all.

        Args:
            rows: Number of rows that a shard must have.
            shards: Number of shards.

        Raises:
            DamagedFileError: A shard is missing or damaged.
        """
        self._remove_shards_from(shards)
        self._remove_abandoned()
        states = [self._verify(shard, rows(shard)) for shard in range(shards)]
        counters: Counter[str] = Counter()
        for state, _, _ in states:
            counters.update(state.counters)
        machines = Counter(state.machine for state, _, _ in states if state.machine)
        manifest = {
            "stage": self.stage,
            "schema_version": SCHEMA_VERSION,
            "digest": self.fingerprint.digest,
            "inputs": self.fingerprint.inputs,
            "shards": [state.rows for state, _, _ in states],
            "bytes": [size for _, size, _ in states],
            "sha256": [digest for _, _, digest in states],
            "counters": dict(sorted(counters.items())),
            **({"machines": dict(sorted(machines.items()))} if machines else {}),
        }
        write_record(self.folder / MANIFEST, manifest)
        return manifest

    def failures(self, shards: Iterable[int], limit: int) -> list[str]:
        """The first images that are errors, each with its reason."""
        found: list[str] = []
        for shard in shards:
            state = self.state(shard) if self.is_done(shard) else None
            if state is not None and state.counters.get("errors"):
                found += failures_of(self.read(shard))
            if len(found) >= limit:
                break
        return found[:limit]

    def _remove_shards_from(self, shards: int) -> None:
        """Remove what an overwritten run with more shards left behind."""
        for path in self.folder.glob("shard-*.parquet"):
            if int(path.stem.removeprefix("shard-")) >= shards:
                path.with_suffix(".npy").unlink(missing_ok=True)
                path.unlink()

    def _remove_abandoned(self) -> None:
        """Remove what killed processes left: temporary files and claims."""
        try:
            now = clock(self.folder)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        for path in [*self.folder.glob(".*.tmp"), *self.folder.glob("*.claim")]:
            with contextlib.suppress(FileNotFoundError):  # it belongs to a living process that has just finished
                if now - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()


class _Hashed:
    """A file that hashes what is written to it."""

    def __init__(self, file: Any):
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)


def failures_of(table: pa.Table) -> list[str]:
    """The images of a stage's table that are errors, as `image_id: reason`."""
    if not {"image_id", "error"} <= set(table.column_names):
        return []
    rows = table.select(["image_id", "error"]).to_pylist()
    return [f"{row['image_id']}: {row['error']}" for row in rows if row["error"] is not None]


def _check_of(footer: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(footer, sort_keys=True).encode()).hexdigest()


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]

"""What makes work resumable: fingerprints, atomic files, and the state of a stage's shards.

A fingerprint is the hash of everything a stage's output depends on. Each shard carries it in its Parquet footer, and
a stage's `manifest.json`, written last, says that all shards are there. A shard is never half written: files are made
beside their place, flushed to disk and renamed.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_relabel.errors import StageError
from hf_relabel.schema import SCHEMA_VERSION

FOOTER_KEY = b"hf_relabel"
MANIFEST = "manifest.json"

ABANDONED_SECONDS = 600.0
"""A claim or a half-written file that nobody has touched for so long is of a process that was killed."""


@dataclass(frozen=True)
class Fingerprint:
    """Everything an output depends on, as plain JSON values, and its hash."""

    inputs: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the inputs and the schema version, as hex digits."""
        text = json.dumps({"schema_version": SCHEMA_VERSION, **self.inputs}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The leaves in which two nested dictionaries differ, as `name: old -> new`."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {_short(a)} -> {_short(b)}")
    return found


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 48 else f"{text[:45]}..."


@contextlib.contextmanager
def atomic_open(path: Path, mode: str = "wb") -> Iterator[IO]:
    """A file that appears under its name only when the block has ended well; flushed to disk before."""
    # Random, as two machines that share a folder may have processes of one number.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(temporary, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clock(folder: Path) -> float:
    """The time by a folder's file system, so that the clocks of two machines that share it need not agree."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    with atomic_open(path, "w") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path: Path) -> Any | None:
    """The JSON value of a file, or None where there is no such file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise StageError(f"{path}: not valid JSON ({error}); remove the file and run the stage again") from error


@dataclass(frozen=True)
class ShardState:
    """The footer of a finished shard."""

    digest: str
    inputs: dict[str, Any]
    rows: int
    counters: dict[str, int]


class ShardFolder:
    """The shards of one stage in one folder, all of one fingerprint."""

    def __init__(self, folder: Path, stage: str, fingerprint: Fingerprint):
        self.folder = folder
        self.stage = stage
        self.fingerprint = fingerprint

    def path(self, shard: int) -> Path:
        """Where a shard's table lies."""
        return self.folder / f"shard-{shard:05d}.parquet"

    def state(self, shard: int) -> ShardState | None:
        """The footer of a shard, whatever its fingerprint; None where the shard is not there."""
        path = self.path(shard)
        try:
            schema = pq.read_schema(path)
            rows = pq.read_metadata(path).num_rows
        except FileNotFoundError:
            return None
        except (pa.ArrowInvalid, OSError) as error:
            raise StageError(f"{path}: damaged shard ({error}); remove the file and run again") from error
        footer = json.loads((schema.metadata or {}).get(FOOTER_KEY, b"{}"))
        return ShardState(footer.get("digest", ""), footer.get("inputs", {}), rows, footer.get("counters", {}))

    def is_done(self, shard: int) -> bool:
        """Whether the shard is there with this fingerprint."""
        state = self.state(shard)
        return state is not None and state.digest == self.fingerprint.digest

    def refuse_other_work(self, shards: int) -> None:
        """Raise StageError where a shard of another fingerprint is in the way, naming what differs."""
        for shard in range(shards):
            state = self.state(shard)
            if state is None or state.digest == self.fingerprint.digest:
                continue
            changed = differences(state.inputs, self.fingerprint.inputs) or ["version of the tables"]
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise StageError(
                f"{self.folder}: holds work made with another configuration ({'; '.join(changed[:3])}{more}); "
                "choose another --run.dir, or redo it with --run.overwrite true"
            )

    def features_path(self, shard: int) -> Path:
        """Where the pooled features of a shard's regions lie (`schema.FEATURES`)."""
        return self.folder / f"shard-{shard:05d}.npy"

    def features(self, shard: int) -> np.ndarray:
        """The pooled features of a shard's regions, mapped from disk: float16 [regions, 1 + views, dim]."""
        return np.load(self.features_path(shard), mmap_mode="r", allow_pickle=False)

    def write(self, shard: int, table: pa.Table, counters: dict[str, int], features: np.ndarray | None = None) -> None:
        """Write a shard's features, if it has any, and then its table with its footer, each atomically."""
        if features is not None:
            with atomic_open(self.features_path(shard)) as file:
                np.save(file, features, allow_pickle=False)
        footer = {
            "stage": self.stage,
            "digest": self.fingerprint.digest,
            "inputs": self.fingerprint.inputs,
            "counters": counters,
        }
        table = table.replace_schema_metadata({FOOTER_KEY: json.dumps(footer, sort_keys=True)})
        with atomic_open(self.path(shard)) as file:
            pq.write_table(table, file, compression="zstd")

    def read(self, shard: int, columns: list[str] | None = None) -> pa.Table:
        """A finished shard's table; of a list of structs a part is named `proposals.list.element.patches`."""
        with pq.ParquetFile(self.path(shard)) as file:
            return file.read(columns=columns).replace_schema_metadata(None)

    def manifest(self) -> dict[str, Any] | None:
        """The stage's manifest if it is complete with this fingerprint, else None."""
        manifest = read_json(self.folder / MANIFEST)
        return manifest if manifest and manifest.get("digest") == self.fingerprint.digest else None

    def write_manifest(self, expected_rows: Callable[[int], int], shards: int) -> dict[str, Any]:
        """Check every shard, add up their counters and write `manifest.json`, last of all."""
        counters: dict[str, int] = {}
        rows = []
        self._remove_shards_from(shards)
        self._remove_abandoned()
        for shard in range(shards):
            state = self.state(shard)
            if state is None or state.digest != self.fingerprint.digest or state.rows != expected_rows(shard):
                raise StageError(f"{self.path(shard)}: missing or changed while the stage ran; run the stage again")
            rows.append(state.rows)
            for key, value in state.counters.items():
                counters[key] = counters.get(key, 0) + value
        manifest = {
            "stage": self.stage,
            "schema_version": SCHEMA_VERSION,
            "digest": self.fingerprint.digest,
            "inputs": self.fingerprint.inputs,
            "shards": rows,
            "counters": dict(sorted(counters.items())),
        }
        write_json(self.folder / MANIFEST, manifest)
        return manifest

    def _remove_shards_from(self, shards: int) -> None:
        """Remove what an overwritten run of more shards left behind."""
        for path in self.folder.glob("shard-*.parquet"):
            if int(path.stem.removeprefix("shard-")) >= shards:
                path.with_suffix(".npy").unlink(missing_ok=True)
                path.unlink()

    def _remove_abandoned(self) -> None:
        """Remove what killed processes have left: half-written files, and claims on shards that are done."""
        now = clock(self.folder)
        for path in [*self.folder.glob(".shard-*.tmp"), *self.folder.glob("shard-*.claim")]:
            with contextlib.suppress(FileNotFoundError):  # of a living process, which has just finished with it
                if now - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()


def make_folder(folder: Path) -> None:
    """Create a folder to write in, or raise a one-line StageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StageError(
            f"run.dir: cannot write in {folder} ({error.strerror}); choose another --run.dir or mend its permissions"
        ) from error

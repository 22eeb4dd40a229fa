"""Files that make work resumable: written atomically, with fingerprints and hashes.

A fingerprint is the hash of everything an output depends on. A file is written under a temporary name, flushed to disk
and renamed, so it is never half written. A record is a JSON file that contains its own hash.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hf_relabel.config import json_file
from hf_relabel.errors import OutputError, StageError
from hf_relabel.schema import SCHEMA_VERSION

SEAL = "record_sha256"
"""Key of a record under which its own hash is stored."""


@dataclass(frozen=True)
class Fingerprint:
    """Everything an output depends on, as plain JSON values, and its hash."""

    inputs: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the inputs and the schema version, as hex digits."""
        return _digest_of({"schema_version": SCHEMA_VERSION, **self.inputs})


def _digest_of(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """List the leaves in which two nested dictionaries differ, as `name: old -> new`."""
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
    """Open a file that appears under its name only when the block has ended well; it is flushed to disk first.

    Raises:
        OutputError: The file cannot be written, for instance because the disk is full.
    """
    # The name is random because two machines that share a folder may have processes with the same number.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(temporary, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # the folder is missing or read-only: there is nothing to remove
            temporary.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The one-line error for a file that cannot be written."""
    return OutputError(
        f"{path}: cannot be written ({error.strerror or error}); free disk space or fix the permissions, "
        "then run the same command again"
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clock(folder: Path) -> float:
    """The time of a folder's file system, so that machines sharing the folder need not agree on the time."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, as hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    with atomic_open(path, "w") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path: Path) -> Any | None:
    """Read the JSON value of a file; None if there is no such file.

    Raises:
        StageError: The file cannot be read or is not JSON.
    """
    try:
        return json_file.read_json(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StageError(f"{path}: cannot be read ({error.strerror or error}); fix its permissions") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise StageError(f"{path}: not valid JSON ({error}); remove the file and run the stage again") from error


def sealed_json(value: dict[str, Any]) -> str:
    """The content of a record, as `write_record` writes it."""
    return json.dumps(value | {SEAL: _digest_of(value)}, indent=2, ensure_ascii=False) + "\n"


def write_record(path: Path, value: dict[str, Any]) -> None:
    """Write a dictionary as JSON together with its own hash, atomically."""
    write_json(path, value | {SEAL: _digest_of(value)})


def read_record(path: Path) -> dict[str, Any] | None:
    """Read what `write_record` wrote; None if there is no such file.

    Raises:
        StageError: The file is damaged.
    """
    value = read_json(path)
    if value is None:
        return None
    seal = value.pop(SEAL, None) if isinstance(value, dict) else None
    if seal is None or seal != _digest_of(value):
        raise StageError(
            f"{path}: damaged, or written by another version of hf_relabel (its hash does not match its content); "
            "remove the file and run the stage again"
        )
    return value


def make_folder(folder: Path) -> None:
    """Create a folder to write in.

    Raises:
        StageError: It cannot be created, or not written in.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StageError(
            f"run.dir: cannot write in {folder} ({error.strerror}); choose another --run.dir or fix its permissions"
        ) from error

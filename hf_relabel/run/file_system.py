"""What a run needs from the file system of its folder, tried out before the first stage.

Processes that share a run's folder rely on it alone. A local disk, NFS, Lustre or GPFS give all of this; a bucket that
is mounted as a folder may not, and a run there would lose or repeat work without a word.
"""

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from hf_relabel.errors import StageError
from hf_relabel.run.store import clock

MAX_CLOCK_STEP = 10.0
"""Seconds by which two looks at the file system's clock may differ; it is asked twice within a moment."""


class _Missing(Exception):
    """The file system does something else than it must."""


def check_file_system(folder: Path) -> None:
    """Try out what claims, shards and records need; takes a few milliseconds on a disk.

    Raises:
        StageError: Something is missing; the message names it.
    """
    trial = folder / f".trial-{uuid.uuid4().hex}"
    checks: list[tuple[str, Callable[[Path], None]]] = [
        ("creating a file only if it does not exist", _exclusive),
        ("replacing a file by a rename", _replace),
        ("renaming a file only once", _rename_once),
        ("flushing files and folders to disk (fsync)", _sync),
        ("setting and keeping a file's modification time", _times),
    ]
    try:
        trial.mkdir()
        for guarantee, check in checks:
            try:
                check(trial)
            except (OSError, _Missing) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else error
                raise StageError(
                    f"run.dir: the file system of {folder} lacks {guarantee} ({reason}), without which processes "
                    "cannot share a run; choose a --run.dir on a local disk or a POSIX network file system"
                ) from error
    except OSError as error:
        raise StageError(f"run.dir: cannot write in {folder} ({error.strerror}); choose another --run.dir") from error
    finally:
        _remove(trial)


def _exclusive(folder: Path) -> None:
    path = folder / "exclusive"
    path.write_text("")
    try:
        open(path, "x").close()
    except FileExistsError:
        return
    raise _Missing("an existing file was created again")


def _replace(folder: Path) -> None:
    old, new = folder / "old", folder / "new"
    old.write_text("old")
    new.write_text("new")
    with open(old) as reader:
        os.replace(new, old)
        if old.read_text() != "new" or new.exists():
            raise _Missing("the file kept its old content, or its new name")
        if reader.read() != "old":
            raise _Missing("a reader that had the file open saw it change")


def _rename_once(folder: Path) -> None:
    """Of several processes that rename the same expired claim, one must succeed."""
    path, aside = folder / "claim", folder / "aside"
    path.write_text("")
    os.rename(path, aside)
    try:
        os.rename(path, folder / "twice")
    except FileNotFoundError:
        return
    raise _Missing("a file that was gone was renamed")


def _sync(folder: Path) -> None:
    with open(folder / "synced", "w") as file:
        file.write("content")
        file.flush()
        os.fsync(file.fileno())
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _times(folder: Path) -> None:
    path = folder / "time"
    before = clock(folder)
    path.write_text("")
    os.utime(path, (before - 1000, before - 1000))
    if abs(path.stat().st_mtime - (before - 1000)) > 2:
        raise _Missing("a time that was set did not stay")
    os.utime(path)
    touched = path.stat().st_mtime
    if not -MAX_CLOCK_STEP < touched - before < MAX_CLOCK_STEP + time.get_clock_info("time").resolution:
        raise _Missing(f"a touched file is {touched - before:.0f} s off a new one")


def _remove(folder: Path) -> None:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        path.unlink(missing_ok=True)
    folder.rmdir()

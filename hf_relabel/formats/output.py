"""Output files and folders of exports: written completely or not at all."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from hf_relabel.errors import FormatError, OutputError
from hf_relabel.run.store import atomic_open


@contextlib.contextmanager
def new_file(path: Path, overwrite: bool) -> Iterator[IO]:
    """Open a text file that gets its name only when the block has succeeded.

    Raises:
        FormatError: The file exists and must not be replaced, or it cannot be written.
    """
    if path.is_dir() or (path.exists() and not overwrite):
        raise FormatError(f"{path}: already exists; choose another name, or replace the file with --overwrite")
    try:
        with atomic_open(path, "w") as file:
            yield file
    except OutputError as error:
        raise FormatError(f"{error}; nothing was changed") from error


@contextlib.contextmanager
def new_folder(folder: Path, marker: str, contents: tuple[str, ...], overwrite: bool) -> Iterator[Path]:
    """Yield a folder that gets its name only when the block has succeeded.

    Args:
        folder: The folder to create.
        marker: A file that every folder of this kind has.
        contents: Names of everything that such a folder may contain.
        overwrite: Replace an existing folder of this kind; one with anything else in it is never replaced.

    Raises:
        FormatError: The folder exists and must not be replaced, or it cannot be written.
    """
    _refuse_to_replace(folder, marker, contents, overwrite)
    staging = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    except OSError as error:
        raise FormatError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _refuse_to_replace(folder: Path, marker: str, contents: tuple[str, ...], overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / marker).is_file() or any(path.name not in contents for path in folder.iterdir()):
        raise FormatError(f"{folder}: exists and contains other files; move it or choose another folder")
    if not overwrite:
        raise FormatError(f"{folder}: already exists; choose another folder, or replace it with --overwrite")

"""Output files of exports: written completely or not at all."""

import contextlib
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

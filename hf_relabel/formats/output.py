"""Files that an export writes: new, whole or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from hf_relabel.errors import FormatError, OutputError
from hf_relabel.run.store import atomic_open


@contextlib.contextmanager
def new_file(path: Path, overwrite: bool) -> Iterator[IO]:
    """A text file that appears under its name only when the block has ended well.

    Raises:
        FormatError: A file is there and must not be replaced, or the place cannot be written.
    """
    if path.is_dir() or (path.exists() and not overwrite):
        raise FormatError(f"{path}: is there already; choose another name, or replace a file with --overwrite")
    try:
        with atomic_open(path, "w") as file:
            yield file
    except OutputError as error:
        raise FormatError(f"{error}; nothing was changed") from error

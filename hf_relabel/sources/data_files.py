"""The data files of a streamed dataset: opened where they are, read in large pieces, errors in one line."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from hf_relabel.config.checks import regular_file
from hf_relabel.errors import SourceError

READ_AHEAD = 4 << 20
"""Bytes that one request to the Hub reads at least, where images are read."""

LITTLE_AHEAD = 64 << 10
"""The same where small columns are read, between which the images of a row group are skipped."""


@dataclass(frozen=True)
class FileOpener:
    """Opens the data files of a split.

    Args:
        urls: Local paths, or addresses on the Hub that contain the commit.
    """

    urls: list[str]

    def open(self, number: int, ahead: int = READ_AHEAD) -> BinaryIO:
        """Open a file for reading and seeking; each request to the Hub reads `ahead` bytes at least."""
        url = self.urls[number]
        if not url.startswith("hf://"):
            return open(regular_file(Path(url)), "rb")
        from huggingface_hub import HfFileSystem

        return HfFileSystem().open(url, "rb", block_size=ahead)

    @contextlib.contextmanager
    def reading(self, number: int) -> Iterator[None]:
        """Turn an error while a file is read into a SourceError that names it."""
        from huggingface_hub.errors import HfHubHTTPError

        # The client's error derives from that of its HTTP library, whose base class is the last before built-ins.
        transport: Any = [cls for cls in HfHubHTTPError.__mro__ if cls.__module__ != "builtins"][-1]
        try:
            yield
        except (OSError, ValueError, EOFError, pa.ArrowException, HfHubHTTPError, transport) as error:
            lines = str(error).strip().splitlines()
            reason = lines[0] if lines else type(error).__name__
            raise SourceError(
                f"{self.urls[number]}: cannot be read ({reason}); the same command resumes once it can be read"
            ) from error


def place_columns(places: np.ndarray) -> dict[str, np.ndarray]:
    """The places of images, int64 [N, k], as columns."""
    return {f"place_{number}": column for number, column in enumerate(places.astype(np.int64).T)}

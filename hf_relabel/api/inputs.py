"""The images that a `Relabeler` takes: paths, PIL pictures and NumPy arrays."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from hf_relabel.config.checks import regular_file
from hf_relabel.errors import UsageError

STORED_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
"""Modes that PNG stores without loss."""


@dataclass(frozen=True)
class GivenImages:
    """Images by path or as the bytes of a file.

    Args:
        items: A path or the content of a file for each image.
    """

    items: list[str | bytes]

    def open(self, index: int) -> BinaryIO:
        """Open the file of an image for reading; raises OSError."""
        item = self.items[index]
        return io.BytesIO(item) if isinstance(item, bytes) else open(regular_file(Path(item)), "rb")

    def content_keys(self) -> Iterator[bytes]:
        """Not used: the images are read once."""
        return iter(())


def read_input(image: Any, number: int) -> tuple[str, str | bytes]:
    """Return the name of an image, and its path or the content of a file.

    Args:
        image: A path, a PIL picture, or a NumPy array, uint8 [H, W], [H, W, 3] (RGB) or [H, W, 4] (RGBA).
        number: Its number, from which the name of a picture or an array follows.

    Raises:
        UsageError: It is none of these.
    """
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        return path, path
    name = f"image-{number}"
    if isinstance(image, np.ndarray):
        ok = image.dtype == np.uint8 and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4)))
        if not ok or not image.size:
            raise UsageError(
                f"{name}: an array must be uint8 of shape [H, W], [H, W, 3] or [H, W, 4], got {image.dtype} "
                f"{list(image.shape)}; convert it, such as (255 * array).astype('uint8')"
            )
        image = Image.fromarray(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    if isinstance(image, Image.Image):
        return name, _content_of(image)
    found = type(image).__name__
    raise UsageError(f"{name}: must be a path, a PIL image or a NumPy array, or a list of these, got {found}")


def _content_of(image: Image.Image) -> bytes:
    """A picture as an uncompressed PNG, so that it is decoded like a file."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode not in STORED_MODES:
        upright = upright.convert("RGB")
    buffer = io.BytesIO()
    upright.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()

"""Decoding: whatever a file stores, as upright RGB of eight bits a channel, or one line that says why not."""

import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from hf_relabel.errors import ImageReadError

# Raster formats only: Pillow would hand PostScript to another program, whatever the file's suffix says.
RASTER_FORMATS = (
    "JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "ICO", "PCX",
)  # fmt: skip

ORIENTATION_TAG = 0x0112  # Exif 2.3, section 4.6.4
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDES_SWAPPED = (5, 6, 7, 8)

# What Pillow's readers raise on damaged files, beside its own errors, which are OSErrors.
DAMAGE = (OSError, ValueError, TypeError, SyntaxError, EOFError, IndexError, KeyError, AttributeError, OverflowError)
DAMAGE += (struct.error, zlib.error, MemoryError, RuntimeError)


@dataclass(frozen=True)
class LoadedImage:
    """A decoded image.

    Args:
        image: Its pixels, RGB and upright; at a fraction of its size where that was allowed.
        width: The image's own width in pixels, upright.
        height: Its own height.
    """

    image: Image.Image
    width: int
    height: int


def decode(file: BinaryIO, min_side: int | None = None) -> LoadedImage:
    """Decode a file's (first) picture.

    It is turned as its EXIF orientation says; transparency is laid over white; 16-bit grey is scaled to 8 bits.

    Args:
        file: The file, open for reading bytes.
        min_side: Allows a large JPEG to be decoded at 1/2, 1/4 or 1/8, as long as both sides keep so many pixels.

    Raises:
        ImageReadError: It is damaged, no image, or too large (Pillow's limit against decompression bombs).
    """
    try:
        image = Image.open(file, formats=_formats())
        whole = image.size
        if min_side is not None:
            image.draft(None, (min_side, min_side))
        reduced = image.size != whole
        image.load()  # a TIFF turns itself here, and then no longer names an orientation
    except Image.DecompressionBombError as error:
        raise ImageReadError(f"too many pixels ({_first_line(error)})") from error
    except UnidentifiedImageError as error:
        raise ImageReadError("not an image, or of a format that is not read") from error
    except DAMAGE as error:
        raise ImageReadError(f"cannot be decoded ({_first_line(error)})") from error
    width, height = whole if reduced else image.size
    orientation = _orientation(image)
    try:
        upright = _as_rgb(image)
    except ValueError as error:
        raise ImageReadError(f"its pixels cannot be made RGB ({_first_line(error)})") from error
    if orientation in TRANSPOSES:
        upright = upright.transpose(TRANSPOSES[orientation])
    if orientation in SIDES_SWAPPED:
        width, height = height, width
    return LoadedImage(upright, width, height)


@cache
def _formats() -> tuple[str, ...]:
    """The raster formats that this build of Pillow has."""
    Image.init()
    return tuple(name for name in RASTER_FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; damaged metadata say nothing of it (1), as the pixels are what counts."""
    try:
        return image.getexif().get(ORIENTATION_TAG, 1)
    except DAMAGE:
        return 1


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _grey_of_16_bits(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")  # a copy even of RGB, so that nothing of the file is kept


def _grey_of_16_bits(image: Image.Image) -> Image.Image:
    """8-bit grey of 16-bit grey: 65535 / 255 = 257 steps to one (`Image.convert` would clip at 255)."""
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError("grey of 32 bits, whose range is not known")
    scaled = ((grey + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[grey == transparent] = 255
    return Image.fromarray(scaled)


def _first_line(error: BaseException) -> str:
    """An error in one line; of the system's errors only the reason, as their text names the file's place."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

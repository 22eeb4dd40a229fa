"""Image decoding: any raster file to upright 8-bit RGB, or a one-line reason why it cannot be read."""

import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from hf_relabel.errors import ImageReadError

# Raster formats only: Pillow would pass PostScript to an external program, whatever the file's suffix is.
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

# What Pillow's readers raise for damaged files. Pillow's own errors are OSErrors.
DAMAGE = (
    OSError, ValueError, TypeError, SyntaxError, EOFError, IndexError, KeyError, AttributeError, OverflowError,
    MemoryError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class LoadedImage:
    """A decoded image.

    Args:
        image: RGB pixels, upright; smaller than the original if that was allowed.
        width: Width of the original in pixels, upright.
        height: Height of the original in pixels, upright.
    """

    image: Image.Image
    width: int
    height: int


def decode(file: BinaryIO, min_side: int | None = None) -> LoadedImage:
    """Decode the first picture in a file.

    The EXIF orientation is applied, transparent pixels are composited over white, and 16-bit gray is scaled to 8 bits.

    Args:
        file: The file, open for reading bytes.
        min_side: Allows decoding a large JPEG at 1/2, 1/4 or 1/8 of its size, as long as both sides keep at least
            this many pixels.

    Raises:
        ImageReadError: The file is damaged, not an image, or larger than Pillow's limit for decompression bombs.
    """
    try:
        image = Image.open(file, formats=_formats())
        whole = image.size
        if min_side is not None:
            image.draft(None, (min_side, min_side))
        reduced = image.size != whole
        image.load()  # Pillow rotates a TIFF here and drops its orientation tag
    except Image.DecompressionBombError as error:
        raise ImageReadError(f"too many pixels ({_first_line(error)})") from error
    except UnidentifiedImageError as error:
        raise ImageReadError("not an image, or an unsupported format") from error
    except DAMAGE as error:
        raise ImageReadError(f"cannot be decoded ({_first_line(error)})") from error
    width, height = whole if reduced else image.size
    orientation = _orientation(image)
    try:
        upright = _as_rgb(image)
    except ValueError as error:
        raise ImageReadError(f"cannot be converted to RGB ({_first_line(error)})") from error
    if orientation in TRANSPOSES:
        upright = upright.transpose(TRANSPOSES[orientation])
    if orientation in SIDES_SWAPPED:
        width, height = height, width
    return LoadedImage(upright, width, height)


@cache
def _formats() -> tuple[str, ...]:
    """The raster formats that this build of Pillow supports."""
    Image.init()
    return tuple(name for name in RASTER_FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 for damaged metadata, because the pixels may still be fine."""
    try:
        return image.getexif().get(ORIENTATION_TAG, 1)
    except DAMAGE:
        return 1


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _gray_from_16_bits(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels of unknown range")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")  # copies even RGB, so that the file's data is not kept in memory


def _gray_from_16_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray to 8 bits by 255 / 65535 = 1 / 257; `Image.convert` would clip at 255 instead."""
    gray = np.asarray(image).astype(np.int64)
    if gray.min() < 0 or gray.max() > 65535:
        raise ValueError("32-bit gray of unknown range")
    scaled = ((gray + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[gray == transparent] = 255
    return Image.fromarray(scaled)


def _first_line(error: BaseException) -> str:
    """The error in one line; for system errors only the reason, because their text contains the file's path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

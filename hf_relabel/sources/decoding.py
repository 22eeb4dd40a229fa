"""Image decoding: any raster file to upright 8-bit RGB, or a one-line reason why it cannot be read.

The published loader script (`dataset_card/load_relabel.py`) is standalone and makes the same pixels; a test compares
them, so a change here belongs there too.
"""

import contextlib
import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from hf_relabel.errors import ImageReadError

# Raster formats only: Pillow would pass PostScript to an external program, whatever the file's suffix is.
RASTER_FORMATS = (
    "JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "TGA", "ICO", "PCX",
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

MAX_SIDE = 1_000_000
"""Pixels of a side; Pillow cannot make a small picture of one with many more, however few pixels it has in all."""

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
        orientation: EXIF orientation of the stored pixels, 1 to 8; 1 is upright.
    """

    image: Image.Image
    width: int
    height: int
    orientation: int = 1


def decode(file: BinaryIO, min_side: int | None = None, max_pixels: int | None = None) -> LoadedImage:
    """Decode the first picture in a file.

    The EXIF orientation is applied, transparent pixels are composited over white, and 16-bit gray is scaled to 8 bits.

    Args:
        file: The file, open for reading bytes.
        min_side: Allows decoding a large JPEG at 1/2, 1/4 or 1/8 of its size, as long as both sides keep at least
            this many pixels.
        max_pixels: Number of pixels above which an image is refused; None for Pillow's limit for decompression bombs.

    Raises:
        ImageReadError: The file is damaged, not an image, or has too many pixels.
    """
    _silence_pillow()
    if max_pixels is not None and Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow refuses twice this number itself
    try:
        image = Image.open(file, formats=_formats())
        whole = image.size
        if max_pixels is not None and whole[0] * whole[1] > max_pixels:
            raise ImageReadError(f"too many pixels ({whole[0]} x {whole[1]}, source.max_pixels is {max_pixels})")
        if max(whole) > MAX_SIDE:
            raise ImageReadError(f"a side is too long ({whole[0]} x {whole[1]}, at most {MAX_SIDE:,} pixels)")
        if min_side is not None:
            image.draft(None, (min_side, min_side))
        reduced = image.size != whole
        raw_ycbcr = _is_raw_ycbcr(image)
        image.load()  # Pillow rotates a TIFF here and drops its orientation tag
    except Image.DecompressionBombError as error:
        raise ImageReadError(f"too many pixels ({_first_line(error)})") from error
    except UnidentifiedImageError as error:
        raise ImageReadError(_unsupported(file)) from error
    except DAMAGE as error:
        raise ImageReadError(f"cannot be decoded ({_first_line(error)})") from error
    width, height = whole if reduced else image.size
    orientation = _orientation(image)
    try:
        upright = _as_rgb(Image.frombytes("YCbCr", image.size, image.tobytes()) if raw_ycbcr else image)
    except ValueError as error:
        raise ImageReadError(f"cannot be converted to RGB ({_first_line(error)})") from error
    if orientation in TRANSPOSES:
        upright = upright.transpose(TRANSPOSES[orientation])
    if orientation in SIDES_SWAPPED:
        width, height = height, width
    return LoadedImage(upright, width, height, orientation if orientation in TRANSPOSES else 1)


@cache
def _silence_pillow() -> None:
    """Keep Pillow's warnings about damaged metadata and large images off the terminal: an image is read, or refused."""
    for category in (UserWarning, Image.DecompressionBombWarning):
        warnings.filterwarnings("ignore", category=category, module=r"PIL\.")


@cache
def _formats() -> tuple[str, ...]:
    """The raster formats that this build of Pillow and its plugins support."""
    Image.init()
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    if "AVIF" not in Image.OPEN:
        with contextlib.suppress(ImportError):
            import pillow_avif  # noqa: F401
    return tuple(name for name in RASTER_FORMATS if name in Image.OPEN)


def _unsupported(file: BinaryIO) -> str:
    """Why Pillow does not know a file; names the plugin for formats that need one (ISO 14496-12, section 4.3)."""
    file.seek(0)
    head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return "HEIC images need a plugin; install pillow-heif"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "AVIF images need a newer Pillow or a plugin; install pillow-avif-plugin"
    return "not an image, or an unsupported format"


def _is_raw_ycbcr(image: Image.Image) -> bool:
    """Whether loading an opened file gives YCbCr values in mode RGB: an uncompressed TIFF with Pillow before 13.

    These versions also take its three bytes per pixel for four, which is corrected here.

    Raises:
        ImageReadError: The colors are subsampled, which Pillow reads wrong.
    """
    if not isinstance(image, TiffImageFile) or image.tag_v2.get(262) != 6:  # PhotometricInterpretation
        return False
    if any(tile.codec_name != "raw" for tile in image.tile):
        return False
    if image.tag_v2.get(530, (2, 2)) != (1, 1):  # YCbCrSubSampling and its default, TIFF 6.0, section 21
        raise ImageReadError("an uncompressed TIFF with subsampled YCbCr colors; save it as PNG or JPEG")
    if image.mode != "RGB":
        return False
    for number, tile in enumerate(image.tile):
        mode, *others = cast("tuple[Any, ...]", tile.args)
        image.tile[number] = tile._replace(args=(mode.replace("RGBX", "RGB"), *others))
    return True


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

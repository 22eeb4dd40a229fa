"""Image files of every pixel format and with damaged metadata, for tests of decoders."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
BROKEN_XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" \xff\xfe \x00 broken'
BROKEN_EXIF = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12\x00\x03"


def _photo(height: int = 18, width: int = 30) -> Image.Image:
    """An image in which every corner differs."""
    rows, columns = np.mgrid[:height, :width]
    values = np.stack([rows * 14, columns * 8, (rows + 2 * columns) * 3], axis=2)
    return Image.fromarray((values % 256).astype(np.uint8))


def write_odd_files(folder: Path) -> list[str]:
    """Write the files; returns their names, sorted."""
    photo, rng = _photo(), np.random.default_rng(0)
    alpha = Image.fromarray(rng.integers(0, 256, (18, 30), dtype=np.uint8))
    deep = rng.integers(0, 65536, (18, 30)).astype(np.uint16)
    palette = photo.quantize(16)

    def save(name: str, image: Image.Image, **options: object) -> None:
        image.save(folder / name, **options)

    save("gray16.png", Image.fromarray(deep))
    save("gray16.tiff", Image.fromarray(deep))
    save("rgba.png", Image.merge("RGBA", (*photo.split(), alpha)))
    save("gray-alpha.png", Image.merge("LA", (photo.convert("L"), alpha)))
    save("palette.png", palette)
    save("palette-one-transparent.png", palette, transparency=3)
    save("palette-alphas.png", palette, transparency=bytes(range(0, 256, 16)))
    save("rgb-one-transparent.png", photo, transparency=photo.getpixel((4, 4)))
    save("palette.gif", palette, transparency=2)
    save("cmyk.jpg", photo.convert("CMYK"))
    save("cmyk.tiff", photo.convert("CMYK"))
    save("ycbcr.tiff", photo.convert("YCbCr"))
    save("ycbcr-jpeg.tiff", photo.convert("YCbCr"), compression="jpeg")
    save("bits.png", photo.convert("1"))
    save("gray.jpg", photo.convert("L"))
    save("xmp.jpg", photo, xmp=BROKEN_XMP)
    save("exif.jpg", photo, exif=BROKEN_EXIF)
    save("exif.webp", Image.merge("RGBA", (*photo.split(), alpha)), exif=BROKEN_EXIF, lossless=True)
    for orientation in range(10):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        save(f"turned-{orientation}.jpg", photo, exif=exif)
        save(f"turned-{orientation}.tiff", photo, exif=exif)
        save(f"turned-{orientation}.png", Image.merge("RGBA", (*photo.split(), alpha)), exif=exif)
    file = io.BytesIO()
    Image.fromarray(deep).save(file, "PNG")
    (folder / "gray16-transparent.png").write_bytes(_with_transparent(file.getvalue(), int(deep[3, 3])))
    return sorted(path.name for path in folder.iterdir())


def _with_transparent(png: bytes, value: int) -> bytes:
    """A gray PNG in which one value is transparent."""
    chunk = b"tRNS" + struct.pack(">H", value)
    chunk = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    place = png.index(b"IDAT") - 4
    return png[:place] + chunk + png[place:]

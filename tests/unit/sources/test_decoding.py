"""Every pixel format decodes to upright RGB with the right values, or gives a reason."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin

from hf_relabel.errors import ImageReadError
from hf_relabel.sources.decoding import _silence_pillow, decode


def stored(image: Image.Image, form: str, **options) -> io.BytesIO:
    """The image as a file in the given format."""
    file = io.BytesIO()
    image.save(file, form, **options)
    file.seek(0)
    return file


def pixels(file: io.BytesIO) -> np.ndarray:
    """The decoded values, uint8 [H, W, 3]."""
    loaded = decode(file)
    assert loaded.image.mode == "RGB"
    assert (loaded.width, loaded.height) == loaded.image.size
    return np.asarray(loaded.image)


def test_rgb_is_kept():
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert (pixels(stored(Image.fromarray(values), "PNG")) == values).all()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_transparent_pixels_are_composited_over_white(form):
    values = np.array([[[200, 0, 100, 255], [200, 0, 100, 0], [200, 0, 100, 51]]], np.uint8)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    # alpha 51 is one fifth of the color and four fifths of white
    expected = [[200, 0, 100], [255, 255, 255], [244, 204, 224]]
    assert np.abs(pixels(stored(Image.fromarray(values), form, **options))[0] - np.array(expected)).max() <= 1


def test_gray_with_alpha():
    image = Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA")
    assert pixels(stored(image, "PNG")).tolist() == [[[10] * 3, [255] * 3]]


def palette_image() -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 200, 0, 0, 0, 90])
    image.putdata([0, 1, 2])
    return image


def test_palette():
    assert pixels(stored(palette_image(), "PNG")).tolist() == [[[255, 0, 0], [0, 200, 0], [0, 0, 90]]]


def test_palette_with_one_transparent_color():
    file = stored(palette_image(), "PNG", transparency=1)
    assert pixels(file).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 90]]]


def test_palette_with_one_alpha_per_color():
    file = stored(palette_image(), "PNG", transparency=bytes([255, 0, 255]))
    assert pixels(file).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 90]]]


def test_rgb_with_one_transparent_color():
    image = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8))
    assert pixels(stored(image, "PNG", transparency=(1, 2, 3))).tolist() == [[[255] * 3, [9] * 3]]


def test_cmyk():
    tiff = stored(Image.new("CMYK", (2, 2), (255, 0, 0, 0)), "TIFF")
    assert pixels(tiff)[0, 0].tolist() == [0, 255, 255]
    jpeg = stored(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(pixels(jpeg)[8, 8].astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_ycbcr_in_a_tiff(compression, orientation):
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(values).convert("YCbCr")
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = orientation
    read = pixels(stored(image, "TIFF", compression=compression, tiffinfo=tags, strip_size=3 * 30 * 4))
    expected = np.asarray(image.convert("RGB"))
    if orientation == 6:
        expected = np.rot90(expected, -1)
    assert np.abs(read.astype(int) - expected).max() <= 1


def test_subsampled_ycbcr_without_compression_is_refused():
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[530] = (2, 2)
    image = Image.new("YCbCr", (30, 20), (100, 50, 200))
    with pytest.raises(ImageReadError, match="subsampled YCbCr"):
        decode(stored(image, "TIFF", tiffinfo=tags))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_gray_of_16_bits_is_scaled_not_clipped(form):
    image = Image.fromarray(np.array([[0, 257, 300, 32768, 65535]], np.uint16))
    assert pixels(stored(image, form))[0, :, 0].tolist() == [0, 1, 1, 128, 255]


def test_gray_of_16_bits_big_endian():
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 25700, 65535))
    assert pixels(stored(image, "TIFF"))[0, :, 0].tolist() == [100, 255]


def test_gray_of_16_bits_in_a_pgm():
    file = io.BytesIO(b"P5\n2 1\n65535\n" + struct.pack(">2H", 25700, 65535))
    assert pixels(file)[0, :, 0].tolist() == [100, 255]


def test_gray_of_16_bits_with_a_transparent_value():
    image = Image.fromarray(np.array([[0, 25700]], np.uint16))
    data = stored(image, "PNG").getvalue()
    chunk = b"tRNS" + struct.pack(">H", 0)
    chunk = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    place = data.index(b"IDAT") - 4
    assert pixels(io.BytesIO(data[:place] + chunk + data[place:]))[0, :, 0].tolist() == [255, 100]


def test_gray_of_8_bits_and_of_1_bit():
    gray = Image.fromarray(np.array([[0, 77, 255]], np.uint8))
    assert pixels(stored(gray, "PNG")).tolist() == [[[0] * 3, [77] * 3, [255] * 3]]
    assert pixels(stored(gray.convert("1", dither=Image.Dither.NONE), "PNG"))[0, :, 1].tolist() == [0, 0, 255]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused(mode):
    image = Image.fromarray(np.array([[0, 70000]], np.int32 if mode == "I" else np.float32))
    with pytest.raises(ImageReadError, match="unknown range"):
        decode(stored(image, "TIFF"))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_the_first_picture_of_an_animation(form):
    frames = [Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 255, 0))]
    options = {"lossless": True} if form == "WEBP" else {}
    file = stored(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert pixels(file)[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(form, orientation):
    values = np.zeros((16, 32, 3), np.uint8)
    values[:8, :16], values[8:, 16:] = (255, 0, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = stored(Image.fromarray(values), form, exif=exif)
    got = pixels(file)
    assert got.shape == ((32, 16, 3) if orientation >= 5 else (16, 32, 3))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
    assert (got == expected).all()
    # orientation 6, a camera held upright: the stored top left corner appears at the top right
    if orientation == 6:
        assert got[4, 12, 0] > 200
        assert got[4, 4, 0] < 50


def test_damaged_exif_is_ignored():
    image = Image.new("RGB", (4, 3), (1, 2, 3))
    assert pixels(stored(image, "PNG", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff")).shape == (3, 4, 3)


def test_damaged_metadata_prints_nothing():
    exif = Image.Exif()
    exif[0x010E] = "a description that the file cuts off"
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif.tobytes()[:30])
    with warnings.catch_warnings(record=True) as alone:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(buffer.getvalue())).getexif().get(0x010E)
    assert alone
    _silence_pillow.cache_clear()  # pytest sets the filters of warnings anew for every test
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        decode(io.BytesIO(buffer.getvalue()))
    assert not seen


def test_a_large_jpeg_is_decoded_smaller_but_keeps_its_size():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = stored(Image.new("RGB", (1601, 800), (9, 99, 199)), "JPEG", exif=exif)
    loaded = decode(file, min_side=180)
    assert (loaded.width, loaded.height) == (800, 1601)
    assert loaded.image.size == (200, 401)
    assert decode(file, min_side=401).image.size == (800, 1601)
    assert decode(file, min_side=5000).image.size == (800, 1601)


def test_min_side_does_not_change_other_formats():
    assert decode(stored(Image.new("RGB", (1600, 800)), "PNG"), min_side=100).image.size == (1600, 800)


def noise(form: str) -> bytes:
    values = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return stored(Image.fromarray(values), form).getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files(form, share):
    data = noise(form)
    with pytest.raises(ImageReadError) as caught:
        decode(io.BytesIO(data[: int(len(data) * share)]))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("data", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_files_that_are_not_images(data):
    with pytest.raises(ImageReadError, match="not an image, or an unsupported format"):
        decode(io.BytesIO(data))


def test_a_decompression_bomb():
    header = struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0)
    chunks = b""
    for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        chunks += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    with pytest.raises(ImageReadError, match="too many pixels"):
        decode(io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunks))


def test_the_limit_on_pixels_can_be_set(monkeypatch):
    file = stored(Image.new("RGB", (40, 30)), "PNG")
    assert decode(file, max_pixels=1200).image.size == (40, 30)
    with pytest.raises(ImageReadError, match=r"too many pixels \(40 x 30, source.max_pixels is 1199\)"):
        decode(file, max_pixels=1199)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # as if Pillow's own limit were lower
    with pytest.raises(ImageReadError, match="too many pixels"):
        decode(file)
    assert decode(file, max_pixels=1200).image.size == (40, 30)


@pytest.mark.parametrize(("brand", "said"), [(b"heic", "install pillow-heif"), (b"mif1", "install pillow-heif")])
def test_heic_without_the_plugin_names_it(brand, said):
    with pytest.raises(ImageReadError, match=said):
        decode(io.BytesIO(b"\x00\x00\x00\x18ftyp" + brand + bytes(40)))


@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
def test_heic_and_avif_with_the_plugin(form):
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow has no AVIF")
    got = pixels(stored(Image.new("RGB", (32, 16), (200, 30, 60)), form, quality=90))
    assert np.abs(got.astype(int) - [200, 30, 60]).max() < 12


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's warnings about damaged TIFF tags
@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_damage_anywhere_gives_an_image_or_a_reason(form):
    data = np.frombuffer(noise(form), np.uint8)
    rng = np.random.default_rng(2)
    reasons = []
    for _ in range(40):
        damaged = data.copy()
        damaged[rng.integers(0, min(len(data), 200), 4)] = rng.integers(0, 256, 4)
        try:
            assert decode(io.BytesIO(damaged.tobytes())).image.mode == "RGB"
        except ImageReadError as error:
            reasons.append(str(error))
    assert reasons
    assert all(len(reason.splitlines()) == 1 for reason in reasons)


@pytest.mark.parametrize("size", [(1_000_001, 1), (1, 1_000_001)])
def test_a_side_that_cannot_be_made_smaller(size):
    """Pillow runs out of memory when it makes a square of one with millions of pixels; the file has a few kilobytes."""
    with pytest.raises(ImageReadError, match="a side is too long"):
        decode(stored(Image.new("L", size), "PNG"))

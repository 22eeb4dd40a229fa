"""Images in memory are decoded to the same pixels as their files."""

import io

import numpy as np
import pytest
from PIL import Image

from hf_relabel.api.inputs import read_input
from hf_relabel.errors import UsageError
from hf_relabel.sources.decoding import decode


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(decode(io.BytesIO(content)).image)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "YCbCr"])
def test_a_picture_is_read_like_its_file(mode, tmp_path):
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (9, 11)).astype(np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (9, 11, 4)).astype(np.uint8))
        image = (image if mode in ("LA", "RGBA") else image.convert("RGB")).convert(mode)
    file = tmp_path / ("image.tif" if mode in ("CMYK", "YCbCr") else "image.png")
    image.save(file)
    name, content = read_input(image, 3)
    assert name == "image-3"
    difference = np.abs(pixels(content).astype(int) - pixels(file.read_bytes()).astype(int))
    assert difference.max() <= (2 if mode == "YCbCr" else 0)


def test_arrays(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (9, 11, 3)).astype(np.uint8)
    assert np.array_equal(pixels(read_input(array, 0)[1]), array)
    gray = pixels(read_input(array[:, :, :1], 0)[1])
    assert np.array_equal(gray, np.repeat(array[:, :, :1], 3, axis=2))


def test_the_orientation_of_a_photo_applies(tmp_path):
    image = Image.fromarray(np.arange(9 * 11 * 3, dtype=np.uint8).reshape(9, 11, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    opened = Image.open(tmp_path / "turned.png")
    from_file = pixels((tmp_path / "turned.png").read_bytes())
    assert from_file.shape == (11, 9, 3)
    assert np.array_equal(pixels(read_input(opened, 0)[1]), from_file)


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3)), np.zeros((4, 4, 7), np.uint8), 5, None])
def test_what_is_not_an_image(bad):
    with pytest.raises(UsageError, match="image-2"):
        read_input(bad, 2)

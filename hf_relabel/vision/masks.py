"""Binary masks, bool [height, width], and their COCO run-length encodings (RLE)."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from pycocotools import mask as coco
from scipy import ndimage

RLE = dict  # {"size": [height, width], "counts": str}, COCO's compressed form with counts as ASCII


def encode(mask: np.ndarray) -> RLE:
    """Encode a mask, bool [H, W], as a compressed COCO RLE: column-major, counts as ASCII."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def turn_upright(mask: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a mask of stored pixels as the EXIF orientation turns the picture (Exif 2.3, section 4.6.4).

    Args:
        mask: Values of the stored pixels, [h, w].
        orientation: 1 to 8; 1 changes nothing.

    Returns:
        The upright mask: [h, w], or [w, h] from orientation 5 on.
    """
    turned = mask.T if orientation >= 5 else mask
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)


def decode(rle: RLE) -> np.ndarray:
    """Decode a compressed COCO RLE to a mask, bool [H, W]."""
    return coco.decode(rle).astype(bool)


def rectangle(size: Sequence[int], rows: range, columns: range) -> RLE:
    """Encode the mask of a rectangle without making the mask.

    Args:
        size: Height and width of the image.
        rows: The rectangle's rows, inside the image.
        columns: Its columns.
    """
    height, width = size
    if not rows or not columns:
        counts = [height * width]
    elif len(rows) == height:
        counts = [columns.start * height, len(columns) * height, (width - columns.stop) * height]
    else:
        first, last = columns.start * height + rows.start, (width - columns.stop + 1) * height - rows.stop
        gap = height - len(rows)
        counts = [first, *[len(rows), gap] * (len(columns) - 1), len(rows), last]
    return coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def overlap(a: RLE, b: RLE) -> int:
    """Count the pixels that two masks of the same size share, without decoding them."""
    return int(coco.area(coco.merge([a, b], intersect=True)))


def pack(mask: np.ndarray) -> bytes:
    """A mask on the patch grid, bool [h, w], as one bit per patch in reading order."""
    return np.packbits(mask).tobytes()


def unpack(packed: Sequence[bytes], grid: tuple[int, int]) -> np.ndarray:
    """Grid masks that `pack` made, bool [m, h, w], from m strings of bytes."""
    patches = grid[0] * grid[1]
    bits = np.frombuffer(b"".join(packed), np.uint8).reshape(len(packed), (patches + 7) // 8)
    return np.unpackbits(bits, axis=1, count=patches).astype(bool).reshape(len(packed), *grid)


def bbox(mask: np.ndarray) -> list[float]:
    """Compute the bounding box [x, y, width, height] in pixels of a mask, bool [H, W]; all 0 for an empty mask."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return [0.0, 0.0, 0.0, 0.0]
    x, y = columns[0], rows[0]
    return [float(x), float(y), float(columns[-1] - x + 1), float(rows[-1] - y + 1)]


def area(mask: np.ndarray) -> int:
    """Count the pixels of a mask, bool [H, W]."""
    return int(np.count_nonzero(mask))


def area_of(rle: RLE) -> int:
    """Count the pixels of an encoded mask."""
    return int(coco.area(rle))


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill the holes of a mask, bool [H, W]: background that is not 4-connected to the image border."""
    return ndimage.binary_fill_holes(mask)


def to_image(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a mask on the patch grid, bool [h, w], to the image's `size` (width, height): bool [height, width].

    The aspect ratio may change, because the backbone sees every image as a square. Bicubic interpolation with a
    threshold of one half, as in the paper's code, smooths the steps between patches.
    """
    picture = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(picture) > 127


def vanishes(mask: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether a mask on the patch grid, bool [h, w], is empty at an image's own `size` (width, height).

    Only where the image has less than twice as many pixels per side as the grid has patches can a patch fall between
    the pixels, so only then the mask is enlarged to find out.
    """
    height, width = mask.shape
    if size[0] >= 2 * width and size[1] >= 2 * height:
        return not mask.any()
    return not to_image(mask, size).any()


def to_grid(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Resize a mask of the image's size, bool [height, width], to a patch grid (rows, columns): bool [rows, columns].

    A patch is covered if bilinear interpolation at its center is above 0 (arXiv 2603.05729, section 3), that is, if
    one of the pixels around the center is set. A mask too small to reach any center covers the patches that contain
    its pixels.
    """
    around = [_around_centers(side, patches) for side, patches in zip(mask.shape, grid, strict=True)]
    covered = np.zeros(grid, bool)
    for rows in around[0]:
        for columns in around[1]:
            covered |= mask[np.ix_(rows, columns)]
    if not covered.any():
        rows, columns = np.nonzero(mask)
        covered[rows * grid[0] // mask.shape[0], columns * grid[1] // mask.shape[1]] = True
    return covered


def _around_centers(side: int, patches: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the pixels before and after each patch's center along a side; equal if the center is on a pixel."""
    # Multiplied by 2 * patches, the centers are whole numbers, so the division is exact.
    doubled = np.maximum((2 * np.arange(patches) + 1) * side - patches, 0)
    before, rest = np.divmod(doubled, 2 * patches)
    return before, np.minimum(before + (rest > 0), side - 1)

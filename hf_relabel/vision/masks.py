"""Binary masks as NumPy arrays and as COCO run-length encodings. A mask is bool [height, width]."""

import numpy as np
from PIL import Image
from pycocotools import mask as coco
from scipy import ndimage

RLE = dict  # {"size": [height, width], "counts": str}, COCO's compressed form with counts as ASCII


def encode(mask: np.ndarray) -> RLE:
    """COCO RLE of a mask, bool [H, W]; column-major, counts as text, as pycocotools reads it."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode(rle: RLE) -> np.ndarray:
    """The mask, bool [H, W], of a COCO RLE."""
    return coco.decode(rle).astype(bool)


def bbox(mask: np.ndarray) -> list[float]:
    """The tight box [x, y, width, height] in pixels of a mask, bool [H, W]; all 0 for an empty mask."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return [0.0, 0.0, 0.0, 0.0]
    x, y = columns[0], rows[0]
    return [float(x), float(y), float(columns[-1] - x + 1), float(rows[-1] - y + 1)]


def area(mask: np.ndarray) -> int:
    """Pixels set in a mask, bool [H, W]."""
    return int(np.count_nonzero(mask))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks of one shape, in [0, 1]; 0 where both are empty."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 0.0


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """The mask, bool [H, W], with every hole closed: background that does not touch the border through an edge."""
    return ndimage.binary_fill_holes(mask)


def to_image(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask on the patch grid, bool [h, w], at an image's own `size` (width, height): bool [height, width].

    The grid is a square picture of an image of any shape, so it is stretched. Bicubic interpolation cut at one half,
    the resampling of the paper's code, rounds the patches' stairs a little.
    """
    picture = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(picture) > 127


def to_grid(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """A mask at an image's own size, bool [height, width], on a patch grid (rows, columns): bool [rows, columns].

    A patch is covered where bilinear interpolation at its centre is above 0 (arXiv 2603.05729, section 3), that is,
    where one of the pixels around the centre is set. A mask too small to meet a centre covers the patches its pixels
    lie in.
    """
    around = [_around_centres(side, patches) for side, patches in zip(mask.shape, grid, strict=True)]
    covered = np.zeros(grid, bool)
    for rows in around[0]:
        for columns in around[1]:
            covered |= mask[np.ix_(rows, columns)]
    if not covered.any():
        rows, columns = np.nonzero(mask)
        covered[rows * grid[0] // mask.shape[0], columns * grid[1] // mask.shape[1]] = True
    return covered


def _around_centres(side: int, patches: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixel before and the pixel after the centre of each patch along a side; the same one where it is exact."""
    # Centres in units of half a patch's share of a pixel, so that all of it is in whole numbers.
    doubled = np.maximum((2 * np.arange(patches) + 1) * side - patches, 0)
    before, rest = np.divmod(doubled, 2 * patches)
    return before, np.minimum(before + (rest > 0), side - 1)

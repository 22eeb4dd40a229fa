"""Masks as polygons along the edges of their pixels.

Coordinates are those of COCO: pixel (x, y) covers the square from (x, y) to (x + 1, y + 1). A polygon of this kind
has the mask's pixels exactly when it is filled by the even-odd rule, as pycocotools does it.
"""

import numpy as np
from scipy import ndimage

_BOTH_DIAGONAL = (6, 9)  # of the four pixels around a corner, the two on a diagonal are set


def polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Trace a mask's parts.

    Args:
        mask: bool [H, W].

    Returns:
        One polygon per 4-connected part, int64 [N, 2] of (x, y), in the order of the parts' first pixels in reading
        order, clockwise on the screen. A hole belongs to its part's polygon: an edge leads to the hole, which is
        counterclockwise, and back.
    """
    parts, count = ndimage.label(mask)
    outlines: list[np.ndarray | None] = [None] * (count + 1)
    holes: list[tuple[int, np.ndarray]] = []
    for loop in _loops(mask):
        x, y = loop[0]
        if mask[y, x]:
            outlines[parts[y, x]] = loop
        else:
            holes.append((int(parts[y - 1, x]), loop[::-1]))
    for part, hole in holes:
        outline = outlines[part]
        assert outline is not None
        outlines[part] = joined(outline, hole)
    return [outline for outline in outlines[1:] if outline is not None]


def joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Join two polygons, int64 [N, 2], by an edge between their nearest corners that leads there and back."""
    distances = np.abs(first[:, None] - second[None]).sum(axis=2)
    a, b = np.unravel_index(distances.argmin(), distances.shape)
    return np.concatenate([first[: a + 1], second[b:], second[: b + 1], first[a:]])


def _loops(mask: np.ndarray) -> list[np.ndarray]:
    """All closed borders of a mask, each from its topmost, leftmost corner to the right: int64 [N, 2] of (x, y)."""
    padded = np.pad(mask, 1).astype(np.uint8)
    # Bits of the four pixels around each corner: 1 top left, 2 top right, 4 bottom left, 8 bottom right.
    around = padded[:-1, :-1] + 2 * padded[:-1, 1:] + 4 * padded[1:, :-1] + 8 * padded[1:, 1:]
    odd = np.isin(around, (1, 2, 4, 8, 7, 11, 13, 14))
    diagonal = np.isin(around, _BOTH_DIAGONAL)
    # A corner where two pixels of a mask touch is there twice: once for each pair of edges.
    ys, xs = np.nonzero(odd | diagonal)
    copies = 1 + diagonal[ys, xs]
    ys, xs = np.repeat(ys, copies), np.repeat(xs, copies)
    second = np.concatenate([[False], (ys[1:] == ys[:-1]) & (xs[1:] == xs[:-1])]) if len(ys) else np.zeros(0, bool)
    # In a row, corners in pairs are the ends of horizontal edges: the first copy ends the left edge.
    along = np.arange(len(ys)) ^ 1
    # In a column likewise; which copy has the upper edge is chosen such that pixels that touch diagonally stay apart.
    upper = np.where(around[ys, xs] == 9, ~second, second)
    down = np.lexsort((~upper, ys, xs))
    across = np.empty(len(ys), np.int64)
    across[down] = down[np.arange(len(ys)) ^ 1]
    loops = []
    seen = np.zeros(len(ys), bool)
    points = np.stack([xs, ys], axis=1)
    for start in range(len(ys)):
        if seen[start]:
            continue
        order, place = [], start
        while not seen[place]:
            order += [place, int(along[place])]
            seen[order[-2:]] = True
            place = int(across[order[-1]])
        loops.append(points[order])
    return loops

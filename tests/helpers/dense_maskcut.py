"""MaskCut by the plain dense generalised eigenproblem: the yardstick of the fast solvers. Slow, and simple on purpose.

It follows the method as published (Wang et al., CVPR 2023, section 3.2), in float64 and NumPy, and shares no code with
the package. Two things differ from the published code unless `raw` asks for it: the sign rule, because LAPACK's sign of
an eigenvector is arbitrary, and the choice among tied entries, because there rounding noise decides.
"""

import numpy as np
import scipy.linalg
from scipy import ndimage

EPS = 1e-5
TIE = 1e-4


def dense_maskcut(
    features: np.ndarray, grid: tuple[int, int], *, tau: float, max_masks: int, raw: bool = False
) -> np.ndarray:
    """Masks, bool [k, h, w], of float32 features [n, C]; with `raw` LAPACK's sign and noise decide, as published."""
    n = grid[0] * grid[1]
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    features = features / np.maximum(norms, 1e-12)
    graph = features @ features.T > tau
    taken = np.zeros(n, dtype=bool)
    previous = np.zeros(n, dtype=bool)
    masks = []
    for index in range(max_masks):
        alive = ~taken & (norms[:, 0] > 0)
        joined = graph & alive[:, None] & alive
        if (joined | ~alive[:, None] | ~alive).all() or (joined.sum(axis=1) <= 1).all():
            break  # all alike or all alone: no second eigenvector to speak of
        weights = np.where(joined, 1.0, EPS)
        degrees = np.diag(weights.sum(axis=1))
        _, vectors = scipy.linalg.eigh(degrees - weights, degrees, subset_by_index=[1, 2])
        side, seed = (_published_side if raw else _side)(vectors[:, 0], grid)
        labels = ndimage.label(side.reshape(grid))[0].ravel()
        mask = (labels == labels[seed]) & side
        if index > 0:
            overlap = (mask & previous).sum() / max((mask | previous).sum(), 1)
            if overlap > 0.5 or mask.mean() <= 0.01:
                mask = np.zeros(n, dtype=bool)
        masks.append(mask & ~taken)
        taken |= mask
        previous = mask
    masks = np.array([mask for mask in masks if mask.any()], dtype=bool)
    return masks.reshape(-1, *grid)


def _side(vector: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, int]:
    """Foreground and seed: at most 2 corners in it; with 2, the largest magnitude too; ties to the first."""
    side = vector > vector.mean()
    corners = _corners(side, grid)
    if corners > 2 or (corners == 2 and not side[_first_largest(np.abs(vector))]):
        side, vector = ~side, -vector
    return side, _first_largest(vector)


def _published_side(vector: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, int]:
    side = vector > vector.mean()
    if _corners(side, grid) > 2 or not side[np.argmax(np.abs(vector))]:
        side, vector = ~side, -vector
    return side, int(np.argmax(vector))


def _corners(side: np.ndarray, grid: tuple[int, int]) -> int:
    return int(side.reshape(grid)[[0, 0, -1, -1], [0, -1, 0, -1]].sum())


def _first_largest(values: np.ndarray) -> int:
    return int(np.argmax(values >= (1 - TIE) * values.max()))

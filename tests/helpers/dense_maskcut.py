"""MaskCut with the dense generalized eigenproblem: the reference for the fast solvers. Slow, and deliberately simple.

It follows the published method (Wang et al., CVPR 2023, section 3.2) in NumPy with float64 and shares no code with the
package. Unless `raw` is set, it differs from the published code in two ways: it has a sign rule, because LAPACK's sign
of an eigenvector is arbitrary, and a rule for ties, which rounding would decide otherwise.
"""

import numpy as np
import scipy.linalg
from scipy import ndimage

EPS = 1e-5
TIE = 1e-4


def dense_maskcut(
    features: np.ndarray, grid: tuple[int, int], *, tau: float, max_masks: int, raw: bool = False
) -> np.ndarray:
    """Compute masks, bool [k, h, w], from float32 features [n, C]; `raw` uses the published rules."""
    n = grid[0] * grid[1]
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    features = features / np.maximum(norms, 1e-12)
    graph = features @ features.T > tau
    taken = np.zeros(n, dtype=bool)
    previous = np.zeros(n, dtype=bool)
    masks = []
    for index in range(max_masks):
        alive = ~taken & (norms[:, 0] > 0)
        connected = graph & alive[:, None] & alive
        if (connected | ~alive[:, None] | ~alive).all() or (connected.sum(axis=1) <= 1).all():
            break  # all patches are connected or isolated: no usable second eigenvector
        weights = np.where(connected, 1.0, EPS)
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
    """Choose the foreground with at most 2 corners (with 2, the one with the largest magnitude) and its seed."""
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

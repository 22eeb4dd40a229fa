"""MaskCut: class-agnostic masks from patch features by repeated normalized cuts.

Method: Wang et al., "Cut and Learn for Unsupervised Object Detection and Instance Segmentation" (CVPR 2023), section
3.2, based on the normalized cut of Shi and Malik (2000). Patches whose features have a cosine similarity above tau are
connected with weight 1, all others with EPS. The eigenvector with the second smallest eigenvalue of
`(D - A) v = lambda D v` splits the grid into two sides. The mask is the connected component of the foreground side that
contains the largest entry. Its patches are then excluded from the graph, and the next round starts.

This module defines the rounds: graph, foreground side, seed, component, rejection. `lanczos` computes the eigenvectors.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy import ndimage

from hf_relabel.vision.lanczos import Lanczos
from hf_relabel.vision.ncut import affinity, to_host

MIN_EIGENVALUE = 1e-3
"""Minimum second eigenvalue of the normalized affinity; below it all patches are similar and there is no cut."""

MAX_OVERLAP = 0.5
"""Maximum IoU of a mask with the previous round's mask; a mask above it is rejected."""

MIN_AREA = 0.01
"""Share of the grid that a mask after the first must exceed; a smaller mask is rejected."""

TIE = 1e-4
"""Relative difference below which two eigenvector entries count as equal; the first in row-major order wins."""


def maskcut_batch(
    features: torch.Tensor, grid: tuple[int, int], *, tau: float, max_masks: int
) -> list[np.ndarray | None]:
    """Find masks in each image of a batch.

    Args:
        features: Patch features in row-major order, [B, n, C] with n = h * w, of any scale and floating dtype.
        grid: Number of patches (rows, columns): (h, w).
        tau: Cosine similarity above which two patches are connected, in [0, 1).
        max_masks: Number of rounds, and so the maximum number of masks per image.

    Returns:
        Per image, bool [k, h, w] with k <= max_masks: disjoint masks that are not empty, in the order of the rounds;
        None for an image with a NaN or infinite feature.

    Raises:
        ValueError: The shapes or settings are not valid.
    """
    cuts = start_maskcut(features, grid, tau=tau, max_masks=max_masks)
    return [None if finish is None else finish() for finish in cuts]


def start_maskcut(
    features: torch.Tensor, grid: tuple[int, int], *, tau: float, max_masks: int
) -> list[Callable[[], np.ndarray] | None]:
    """Begin what `maskcut_batch` does, with the graphs, which are computed where the features are.

    Returns:
        Per image a function that does the rest on the CPU, which any thread may call, and returns its masks.
    """
    height, width = grid
    if features.dim() != 3 or features.shape[1] != height * width:
        raise ValueError(f"maskcut: expected features [batch, {height} * {width}, C], got {list(features.shape)}")
    if not 0 <= tau < 1:
        raise ValueError(f"maskcut: tau must be at least 0 and below 1, got {tau}")
    features = features.float()
    lengths = torch.linalg.vector_norm(features, dim=2, keepdim=True)  # finite if all values of the patch are
    finite = lengths.isfinite().flatten(1).all(dim=1)
    unit = features / lengths.clamp(min=1e-12)
    blank = lengths[:, :, 0] == 0  # patches without a feature
    cuts: list[Callable[[], np.ndarray] | None] = [None] * len(features)
    at_once = 1 if features.device.type == "cpu" else len(features)
    for indices in finite.nonzero()[:, 0].split(at_once):
        graphs, excluded = to_host(affinity(unit[indices], tau)), blank[indices].cpu().numpy()
        for place, index in enumerate(indices.tolist()):
            cuts[index] = partial(_rounds, graphs[place], excluded[place], grid, max_masks)
    return cuts


def _rounds(graph: torch.Tensor, blank: np.ndarray, grid: tuple[int, int], max_masks: int) -> np.ndarray:
    """Run all rounds on the graph of an image.

    Args:
        graph: int8 or float64 [n, n], on the CPU.
        blank: Patches without a feature, bool [n]; excluded from the first round on.
        grid: Number of patches (rows, columns).
        max_masks: Number of rounds.

    Returns:
        bool [k, h, w], the masks that are not empty.
    """
    solver = Lanczos(graph)
    taken = np.zeros_like(blank)
    previous = found = taken
    changed = True
    masks = []
    for index in range(max_masks):
        if changed:  # after a rejected mask, graph and cut stay the same; the mask may be accepted now
            excluded = taken | blank
            eigenvector, eigenvalue = solver.solve(torch.from_numpy(excluded))
            found = np.zeros_like(taken)
            if eigenvalue > MIN_EIGENVALUE:
                found = component(*split(eigenvector.numpy(), excluded, grid), grid)
        mask = np.zeros_like(found) if index > 0 and _is_rejected(found, previous) else found
        new = mask & ~taken
        changed = bool(new.any())
        if changed:
            masks.append(new.reshape(grid))
        taken = taken | mask
        previous = mask
    return np.array(masks, bool).reshape(-1, *grid)


def split(eigenvector: np.ndarray, excluded: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, int]:
    """Split the grid into foreground and background.

    The foreground is the side above the mean or its complement: the one that contains fewer of the image's 4 corners
    or, with 2 corners each, the entry of largest magnitude. The seed is the foreground's largest entry.

    Args:
        eigenvector: [n], of either sign.
        excluded: Excluded patches, bool [n].
        grid: Number of patches (rows, columns).

    Returns:
        Foreground, bool [n], and seed.
    """
    # An excluded patch has the value mean / eigenvalue, which is above the mean if it is positive. Comparing with 0
    # keeps rounding of the mean from deciding.
    height, width = grid
    side = np.where(excluded, eigenvector > 0, eigenvector > eigenvector.mean())
    corners = side[[0, width - 1, (height - 1) * width, height * width - 1]].sum()
    if corners > 2 or (corners == 2 and not side[_first_largest(np.abs(eigenvector))]):
        return ~side, _first_largest(-eigenvector)
    return side, _first_largest(eigenvector)


def component(side: np.ndarray, seed: int, grid: tuple[int, int]) -> np.ndarray:
    """Find the 4-connected component of a side, bool [n], that contains the seed.

    Returns:
        bool [n]; empty if the seed is not on the side.
    """
    labels = ndimage.label(side.reshape(grid))[0].ravel()
    return (labels == labels[seed]) & side


def _first_largest(values: np.ndarray) -> int:
    """Return the index of the first entry of [n] within `TIE` of the maximum, which must be positive."""
    return int((values >= (1 - TIE) * values.max()).argmax())


def _is_rejected(mask: np.ndarray, previous: np.ndarray) -> bool:
    """Whether a mask [n] is too small or overlaps too much with the previous round's mask."""
    overlap = (mask & previous).sum() > MAX_OVERLAP * (mask | previous).sum()
    return bool(overlap or mask.sum() <= MIN_AREA * len(mask))

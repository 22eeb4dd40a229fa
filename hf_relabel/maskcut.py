"""MaskCut: class-agnostic masks from patch features by repeated normalised cuts.

Method: Wang et al., "Cut and Learn for Unsupervised Object Detection and Instance Segmentation" (CVPR 2023), section
3.2, on the normalised cut of Shi and Malik (2000). Patches whose features have a cosine similarity above tau are
joined with weight 1, all others with EPS. The eigenvector with the second smallest eigenvalue of
`(D - A) v = lambda D v` splits the grid in two; the connected part of the foreground side around the largest entry is
a mask. Its patches are taken out of the graph and the next round begins.

This file holds the definition: graph, sides, seed, refusal, rounds. The eigenvectors come from `lanczos` (one image
on the CPU) or `krylov` (a batch on any device); both see the same graph and obey the same rules.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from scipy import ndimage

from hf_relabel.lanczos import Lanczos

MIN_EIGENVALUE = 1e-3
"""Least second eigenvalue of the normalised affinity; below it all patches are alike and there is nothing to cut."""

MAX_OVERLAP = 0.5
"""A later mask with a larger IoU with the mask of the round before is refused."""

MIN_AREA = 0.01
"""A later mask that covers no more than this share of the grid is refused."""

TIE = 1e-4
"""Relative difference within which two entries of the eigenvector count as equal; the first in reading order wins."""

AFFINITY_ROWS = 256
"""Rows of the affinity computed at once: enough for a fast product, few enough to skip nearly half of it."""


def maskcut(
    features: torch.Tensor, grid: tuple[int, int], *, tau: float, max_masks: int, solver: str = "auto"
) -> np.ndarray:
    """Masks of one image, bool [k, h, w] with k <= max_masks: disjoint, not empty, in the order they were found.

    Args:
        features: Patch features [n, C] in reading order, of any length and floating dtype; n = h * w.
        grid: Patches down and across, (h, w).
        tau: Cosine similarity above which two patches are joined, from 0 to below 1.
        max_masks: Rounds, hence at most so many masks.
        solver: `lanczos`, `krylov`, or `auto`: lanczos on the CPU, krylov elsewhere.

    Raises:
        ValueError: A feature is NaN or infinite, or the shapes or settings do not fit.
    """
    (masks,) = maskcut_batch(features[None], grid, tau=tau, max_masks=max_masks, solver=solver)
    if masks is None:
        raise ValueError("maskcut: the patch features hold NaN or infinite values")
    return masks


def maskcut_batch(
    features: torch.Tensor, grid: tuple[int, int], *, tau: float, max_masks: int, solver: str = "auto"
) -> list[np.ndarray | None]:
    """`maskcut` of each image of a batch, features [B, n, C]; None for an image with a NaN or infinite feature."""
    height, width = grid
    if features.dim() != 3 or features.shape[1] != height * width:
        raise ValueError(f"maskcut: expected features [batch, {height} * {width}, C], got {list(features.shape)}")
    if not 0 <= tau < 1:
        raise ValueError(f"maskcut: tau must be at least 0 and below 1, got {tau}")
    norms = features.float().norm(dim=2)  # [B, n]; finite only where all of a patch's values are
    finite = norms.isfinite().all(dim=1).tolist()
    results: list[np.ndarray | None] = [None] * len(features)
    for index in [index for index, ok in enumerate(finite) if ok]:
        taken = _rounds(features[index : index + 1], grid, tau, max_masks)[0].cpu().numpy()
        results[index] = taken[taken.any(axis=(1, 2))]
    return results


def _rounds(features: torch.Tensor, grid: tuple[int, int], tau: float, max_masks: int) -> torch.Tensor:
    """All rounds over a batch of features [B, n, C]: masks [B, max_masks, h, w], empty where a round found none."""
    unit = torch.nn.functional.normalize(features.float(), dim=2)
    blank = ~unit.any(dim=2)  # [B, n] patches without a feature are joined to nothing
    solver = Lanczos(affinity(unit[0], tau))
    taken = torch.zeros_like(blank)
    previous = torch.zeros_like(blank)
    found = torch.zeros_like(blank)
    masks = []
    for index in range(max_masks):
        if index == 0 or bool(masks[-1].any()):  # an unchanged graph has the eigenvector it had
            void = taken | blank
            eigenvector, eigenvalue = solver.solve(void)
            side, seed = split(eigenvector, void, grid)
            found = component(side, seed, grid) & (eigenvalue > MIN_EIGENVALUE)[:, None]
        mask = found
        if index > 0:
            mask = mask & ~_refused(mask, previous)[:, None]
        masks.append(mask & ~taken)
        taken = taken | mask
        previous = mask
    return torch.stack(masks, dim=1).unflatten(2, grid)


def affinity(unit: torch.Tensor, tau: float) -> torch.Tensor:
    """The graph, float32 [n, n] of 0 and 1: which of the patches, unit features [n, C], are joined.

    In full float32: with TF32 or half precision, one image in ten gets another mask. The graph is symmetric, so each
    block of rows is computed from the diagonal on and copied below it.
    """
    n = len(unit)
    joined = unit.new_empty(n, n)
    with _full_precision():
        for start in range(0, n, AFFINITY_ROWS):
            stop = start + AFFINITY_ROWS
            block = joined[start:stop, start:]
            torch.mm(unit[start:stop], unit[start:].T, out=block)
            torch.gt(block, tau, out=block)
            joined[stop:, start:stop] = block[:, AFFINITY_ROWS:].T
    return joined


def split(eigenvector: torch.Tensor, void: torch.Tensor, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The foreground side, bool [B, n], and its seed, int [B], of eigenvectors [B, n] of either sign.

    The side is what lies above the mean, turned so that at most 2 of the image's 4 corners are foreground; with
    exactly 2, so that the entry of largest magnitude is. The seed is the largest entry of that side.
    A void patch has the value mean / eigenvalue, above the mean just when positive: asked that way, rounding of the
    mean cannot decide it.
    """
    height, width = grid
    side = torch.where(void, eigenvector > 0, eigenvector > eigenvector.mean(dim=1, keepdim=True))
    corners = side[:, [0, width - 1, (height - 1) * width, height * width - 1]].sum(dim=1)
    holds_peak = side.gather(1, _first_largest(eigenvector.abs())[:, None])[:, 0]
    turn = (corners > 2) | ((corners == 2) & ~holds_peak)
    seed = _first_largest(torch.where(turn[:, None], -eigenvector, eigenvector))
    return side ^ turn[:, None], seed


def component(side: torch.Tensor, seed: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The 4-connected part, bool [B, n], of each side [B, n] that holds its seed [B]."""
    parts = []
    for image, start in zip(side.unflatten(1, grid).numpy(), seed.tolist(), strict=True):
        labels = ndimage.label(image)[0].ravel()
        parts.append(torch.from_numpy(labels == labels[start]) & bool(labels[start]))
    return torch.stack(parts)


def _first_largest(values: torch.Tensor) -> torch.Tensor:
    """The first index, int [B], of the largest of values [B, n] up to `TIE`; the largest must be positive."""
    return (values >= (1 - TIE) * values.amax(dim=1, keepdim=True)).int().argmax(dim=1)


def _refused(mask: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
    """Whether each mask [B, n] is too small or too much like the previous round's, bool [B]."""
    overlap = (mask & previous).sum(dim=1) > MAX_OVERLAP * (mask | previous).sum(dim=1)
    return overlap | (mask.sum(dim=1) <= MIN_AREA * mask.shape[1])


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32 or bfloat16 inside float32 products, whatever the process has set; set back on leaving."""
    setting = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(setting)

"""MaskCut: class-agnostic masks from patch features by repeated normalised cuts.

Method: Wang et al., "Cut and Learn for Unsupervised Object Detection and Instance Segmentation" (CVPR 2023), section
3.2, on the normalised cut of Shi and Malik (2000). Patches whose features have a cosine similarity above tau are
joined with weight 1, all others with EPS. The eigenvector with the second smallest eigenvalue of
`(D - A) v = lambda D v` splits the grid in two; the connected part of the foreground side around the largest entry is
a mask. Its patches are taken out of the graph and the next round begins.

This file holds the definition: graph, sides, seed, refusal, rounds. The eigenvectors come from `lanczos` (one image
on the CPU) or `krylov` (a batch on any device); both see the same graph and obey the same rules.
"""

import numpy as np
import torch
from scipy import ndimage

from hf_relabel.vision.krylov import Krylov
from hf_relabel.vision.lanczos import Lanczos
from hf_relabel.vision.ncut import affinity

MIN_EIGENVALUE = 1e-3
"""Least second eigenvalue of the normalised affinity; below it all patches are alike and there is nothing to cut."""

MAX_OVERLAP = 0.5
"""A later mask with a larger IoU with the mask of the round before is refused."""

MIN_AREA = 0.01
"""A later mask that covers no more than this share of the grid is refused."""

GRAPH_BYTES = {"cpu": 2**20, "cuda": 2**31}
"""Memory for the graphs of the images that `krylov` solves together, by kind of device."""

FLOOD_SWEEPS = 4
"""Times a flood runs along rows and columns before the host looks whether it has ended."""

TIE = 1e-4
"""Relative difference within which two entries of the eigenvector count as equal; the first in reading order wins."""


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
    features = features.float()
    lengths = torch.linalg.vector_norm(features, dim=2, keepdim=True)  # finite where all of a patch's values are
    finite = lengths.isfinite().flatten(1).all(dim=1)
    unit = features / lengths.clamp(min=1e-12)
    blank = lengths[:, :, 0] == 0
    indices = finite.nonzero()[:, 0].tolist()
    if len(indices) < len(features):
        unit, blank = unit[finite], blank[finite]
    chosen = _choose(solver, features.device)
    at_once = _images_at_once(chosen, features)
    results: list[np.ndarray | None] = [None] * len(features)
    for start in range(0, len(indices), at_once):
        part = slice(start, start + at_once)
        found = _rounds(chosen(affinity(unit[part], tau)), blank[part], grid, max_masks)
        for index, masks in zip(indices[part], found, strict=True):
            results[index] = masks[masks.any(axis=(1, 2))]
    return results


def _choose(solver: str, device: torch.device) -> type[Lanczos] | type[Krylov]:
    if solver == "auto":
        solver = "lanczos" if device.type == "cpu" else "krylov"
    return {"lanczos": Lanczos, "krylov": Krylov}[solver]


def _images_at_once(solver: type[Lanczos] | type[Krylov], features: torch.Tensor) -> int:
    """Images of features [B, n, C] whose graphs are held in memory together, at least 1."""
    return max(1, GRAPH_BYTES[features.device.type] // (4 * features.shape[1] ** 2)) if solver is Krylov else 1


def _rounds(graphs: Lanczos | Krylov, blank: torch.Tensor, grid: tuple[int, int], max_masks: int) -> np.ndarray:
    """All rounds over the graphs of a batch: masks, bool [B, max_masks, h, w], empty where a round found none.

    Patches that are `blank`, bool [B, n], have no feature and are joined to nothing from the start.
    """
    taken = torch.zeros_like(blank)
    previous = taken
    changed = torch.ones_like(blank[:, 0])
    masks = []
    for index in range(max_masks):
        if changed.any():  # a refused mask leaves the graph as it was, and so the cut; it may be granted now
            void = taken | blank
            eigenvector, eigenvalue = graphs.solve(void, changed)
            side, seed = split(eigenvector, void, grid)
            found = component(side, seed, grid) & (eigenvalue > MIN_EIGENVALUE)[:, None]
        mask = found & ~_refused(found, previous)[:, None] if index > 0 else found
        masks.append(mask & ~taken)
        changed = masks[-1].any(dim=1)
        taken = taken | mask
        previous = mask
    return torch.stack(masks, dim=1).unflatten(2, grid).cpu().numpy()


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
    """The 4-connected part of each side that holds its seed, int [B], or nothing if none does; all bool [B, n]."""
    if side.device.type == "cpu":
        parts = []
        for image, start in zip(side.unflatten(1, grid).numpy(), seed.tolist(), strict=True):
            labels = ndimage.label(image)[0].ravel()
            parts.append(torch.from_numpy((labels == labels[start]) & image.ravel()))
        return torch.stack(parts)
    return flood(side, seed, grid)


def flood(side: torch.Tensor, seed: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """`component` in tensor operations: from the seed along rows and columns, up to the next wall, until all is wet."""
    open_ = side.unflatten(1, grid)
    wet = torch.zeros_like(side).scatter_(1, seed[:, None], True).unflatten(1, grid) & open_
    while True:
        before = wet
        for _ in range(FLOOD_SWEEPS):
            wet = _along_rows(wet, open_)
            wet = _along_rows(wet.mT, open_.mT).mT
        if torch.equal(wet, before):
            return wet.flatten(1)


def _along_rows(wet: torch.Tensor, open_: torch.Tensor) -> torch.Tensor:
    """Wet [B, h, w], and every open patch in a row that no wall parts from a wet one."""
    stretch = (~open_).cumsum(dim=2)  # [B, h, w] the same number from one wall to the next
    reached = torch.zeros_like(stretch)
    reached = torch.cat([reached, reached[:, :, :1]], dim=2).scatter_add_(2, stretch, wet.long())
    return open_ & (reached.gather(2, stretch) > 0)


def _first_largest(values: torch.Tensor) -> torch.Tensor:
    """The first index, int [B], of the largest of values [B, n] up to `TIE`; the largest must be positive."""
    return (values >= (1 - TIE) * values.amax(dim=1, keepdim=True)).int().argmax(dim=1)


def _refused(mask: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
    """Whether each mask [B, n] is too small or too much like the previous round's, bool [B]."""
    overlap = (mask & previous).sum(dim=1) > MAX_OVERLAP * (mask | previous).sum(dim=1)
    return overlap | (mask.sum(dim=1) <= MIN_AREA * mask.shape[1])

"""MaskCut: class-agnostic masks from patch features by repeated normalized cuts.

Method: Wang et al., "Cut and Learn for Unsupervised Object Detection and Instance Segmentation" (CVPR 2023), section
3.2, based on the normalized cut of Shi and Malik (2000). Patches whose features have a cosine similarity above tau are
connected with weight 1, all others with EPS. The eigenvector with the second smallest eigenvalue of
`(D - A) v = lambda D v` splits the grid into two sides. The mask is the connected component of the foreground side that
contains the largest entry. Its patches are then excluded from the graph, and the next round starts.

This module defines the rounds: graph, foreground side, seed, component, rejection. `lanczos` (one image on the CPU) or
`krylov` (a batch on a GPU) computes the eigenvectors; both solve the same graph to the same tolerance.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy import ndimage

from hf_relabel.vision.krylov import Krylov
from hf_relabel.vision.lanczos import Lanczos
from hf_relabel.vision.ncut import affinity, graph_dtype

MIN_EIGENVALUE = 1e-3
"""Minimum second eigenvalue of the normalized affinity; below it all patches are similar and there is no cut."""

MAX_OVERLAP = 0.5
"""Maximum IoU of a mask with the previous round's mask; a mask above it is rejected."""

MIN_AREA = 0.01
"""Share of the grid that a mask after the first must exceed; a smaller mask is rejected."""

GRAPH_BYTES = {"cpu": 2**20, "cuda": 2**31}
"""Bytes for the graphs that `krylov` solves together, by device type."""

FLOOD_SWEEPS = 4
"""Sweeps along rows and columns between two checks by the host whether a flood fill is complete."""

TIE = 1e-4
"""Relative difference below which two eigenvector entries count as equal; the first in row-major order wins."""


def maskcut_batch(
    features: torch.Tensor, grid: tuple[int, int], *, tau: float, max_masks: int, solver: str = "auto"
) -> list[np.ndarray | None]:
    """Find masks in each image of a batch.

    Args:
        features: Patch features in row-major order, [B, n, C] with n = h * w, of any scale and floating dtype.
        grid: Number of patches (rows, columns): (h, w).
        tau: Cosine similarity above which two patches are connected, in [0, 1).
        max_masks: Number of rounds, and so the maximum number of masks per image.
        solver: `lanczos`, `krylov`, or `auto`: lanczos on the CPU, krylov on a GPU.

    Returns:
        Per image, bool [k, h, w] with k <= max_masks: disjoint masks that are not empty, in the order of the rounds;
        None for an image with a NaN or infinite feature.

    Raises:
        ValueError: The shapes or settings are not valid.
    """
    cuts = start_maskcut(features, grid, tau=tau, max_masks=max_masks, solver=solver)
    return [None if finish is None else finish() for finish in cuts]


def start_maskcut(
    features: torch.Tensor, grid: tuple[int, int], *, tau: float, max_masks: int, solver: str = "auto"
) -> list[Callable[[], np.ndarray] | None]:
    """Begin what `maskcut_batch` does: what has to be done for the whole batch.

    Returns:
        Per image a function that does the rest, which any thread may call, and returns its masks.
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
    indices = finite.nonzero()[:, 0].tolist()
    if len(indices) < len(features):
        unit, blank = unit[finite], blank[finite]
    chosen = _choose(solver, features.device)
    at_once = _images_at_once(chosen, features)
    results: list[Callable[[], np.ndarray] | None] = [None] * len(features)
    for start in range(0, len(indices), at_once):
        part = slice(start, start + at_once)
        graphs = affinity(unit[part], tau)
        if chosen is Krylov:
            found = _rounds(Krylov(graphs), blank[part], grid, max_masks)
            for index, masks in zip(indices[part], found, strict=True):
                results[index] = partial(_not_empty, masks)
        else:
            for index, graph, without in zip(indices[part], graphs.cpu(), blank[part].cpu(), strict=True):
                results[index] = partial(_cut_one, graph[None], without[None], grid, max_masks)
    return results


def _cut_one(graph: torch.Tensor, blank: torch.Tensor, grid: tuple[int, int], max_masks: int) -> np.ndarray:
    (masks,) = _rounds(Lanczos(graph.to(graph_dtype(graph))), blank, grid, max_masks)
    return _not_empty(masks)


def _not_empty(masks: np.ndarray) -> np.ndarray:
    return masks[masks.any(axis=(1, 2))]


def _choose(solver: str, device: torch.device) -> type[Lanczos] | type[Krylov]:
    if solver == "auto":
        solver = "lanczos" if device.type == "cpu" else "krylov"
    return Lanczos if solver == "lanczos" else Krylov


def _images_at_once(solver: type[Lanczos] | type[Krylov], features: torch.Tensor) -> int:
    """Number of images, at least 1, whose graphs fit in memory together; features are [B, n, C]."""
    if solver is Lanczos and features.device.type == "cpu":
        return 1
    return max(1, GRAPH_BYTES[features.device.type] // (4 * features.shape[1] ** 2))


def _rounds(graphs: Lanczos | Krylov, blank: torch.Tensor, grid: tuple[int, int], max_masks: int) -> np.ndarray:
    """Run all rounds on the graphs of a batch.

    Args:
        graphs: Solver of the graphs.
        blank: Patches without a feature, bool [B, n]; excluded from the first round on.
        grid: Number of patches (rows, columns).
        max_masks: Number of rounds.

    Returns:
        bool [B, max_masks, h, w]; a mask is empty if its round found none.
    """
    taken = torch.zeros_like(blank)
    previous = taken
    changed = torch.ones_like(blank[:, 0])
    masks = []
    for index in range(max_masks):
        if changed.any():  # after a rejected mask, graph and cut stay the same; the mask may be accepted now
            excluded = taken | blank
            eigenvector, eigenvalue = graphs.solve(excluded, changed)
            side, seed = split(eigenvector, excluded, grid)
            found = component(side, seed, grid) & (eigenvalue > MIN_EIGENVALUE)[:, None]
        mask = found & ~_rejected(found, previous)[:, None] if index > 0 else found
        masks.append(mask & ~taken)
        changed = masks[-1].any(dim=1)
        taken = taken | mask
        previous = mask
    return torch.stack(masks, dim=1).unflatten(2, grid).cpu().numpy()


def split(
    eigenvector: torch.Tensor, excluded: torch.Tensor, grid: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Split the grid into foreground and background.

    The foreground is the side above the mean or its complement: the one that contains fewer of the image's 4 corners
    or, with 2 corners each, the entry of largest magnitude. The seed is the foreground's largest entry.

    Args:
        eigenvector: [B, n], of either sign.
        excluded: Excluded patches, bool [B, n].
        grid: Number of patches (rows, columns).

    Returns:
        Foreground, bool [B, n], and seed, int [B].
    """
    # An excluded patch has the value mean / eigenvalue, which is above the mean if it is positive. Comparing with 0
    # keeps rounding of the mean from deciding.
    height, width = grid
    side = torch.where(excluded, eigenvector > 0, eigenvector > eigenvector.mean(dim=1, keepdim=True))
    corners = side[:, [0, width - 1, (height - 1) * width, height * width - 1]].sum(dim=1)
    holds_peak = side.gather(1, _first_largest(eigenvector.abs())[:, None])[:, 0]
    turn = (corners > 2) | ((corners == 2) & ~holds_peak)
    seed = _first_largest(torch.where(turn[:, None], -eigenvector, eigenvector))
    return side ^ turn[:, None], seed


def component(side: torch.Tensor, seed: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Find the 4-connected component of each side, bool [B, n], that contains its seed, int [B].

    Returns:
        bool [B, n]; empty if the seed is not on the side.
    """
    if side.device.type == "cpu":
        parts = []
        for image, start in zip(side.unflatten(1, grid).numpy(), seed.tolist(), strict=True):
            labels = ndimage.label(image)[0].ravel()
            parts.append(torch.from_numpy((labels == labels[start]) & image.ravel()))
        return torch.stack(parts)
    return flood(side, seed, grid)


def flood(side: torch.Tensor, seed: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Compute `component` with tensor operations: fill from the seed along rows and columns until nothing changes."""
    open_ = side.unflatten(1, grid)
    filled = torch.zeros_like(side).scatter_(1, seed[:, None], True).unflatten(1, grid) & open_
    while True:
        before = filled
        for _ in range(FLOOD_SWEEPS):
            filled = _fill_rows(filled, open_)
            filled = _fill_rows(filled.mT, open_.mT).mT
        if torch.equal(filled, before):
            return filled.flatten(1)


def _fill_rows(filled: torch.Tensor, open_: torch.Tensor) -> torch.Tensor:
    """Extend the filled patches, bool [B, h, w], to every run of open patches in a row that contains one."""
    run = (~open_).cumsum(dim=2)  # [B, h, w], constant within a run
    counts = torch.zeros_like(run)
    counts = torch.cat([counts, counts[:, :, :1]], dim=2).scatter_add_(2, run, filled.long())
    return open_ & (counts.gather(2, run) > 0)


def _first_largest(values: torch.Tensor) -> torch.Tensor:
    """Return the index, int [B], of the first entry of [B, n] within `TIE` of the maximum, which must be positive."""
    return (values >= (1 - TIE) * values.amax(dim=1, keepdim=True)).int().argmax(dim=1)


def _rejected(mask: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
    """Whether each mask [B, n] is too small or overlaps too much with the previous round's mask: bool [B]."""
    overlap = (mask & previous).sum(dim=1) > MAX_OVERLAP * (mask | previous).sum(dim=1)
    return overlap | (mask.sum(dim=1) <= MIN_AREA * mask.shape[1])

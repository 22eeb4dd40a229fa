"""The graph of a normalized cut and its matrix operator.

A graph B connects patches with similar features. With `A = EPS + (1 - EPS) B` and `D = diag(A 1)`, the operator is
`M = D^-1/2 A D^-1/2` (Shi and Malik, "Normalized Cuts and Image Segmentation", 2000): an eigenvector x of M with
eigenvalue mu corresponds to the eigenvector `D^-1/2 x` of `(D - A) v = lambda D v` with lambda = 1 - mu. The top
eigenvector is known, `D^1/2 1` with mu = 1. Solvers keep it out of their basis, so that the second eigenvector, which
defines the cut, becomes the top one.

Graphs are computed where the features are, on a GPU those of a batch together. The operator is for one graph on the
CPU: an iteration is a few dozen operations on vectors, each so small that a GPU would only wait for the next. (A
batched solver for GPUs was given up: on an H200 its factorizations gave NaN for photos.)

B is computed once per image. Patches that a mask already covers are excluded: their edges no longer count in products
and degrees.
"""

import threading
from typing import Any

import torch

from hf_relabel.vision import onednn

EPS = 1e-5
"""Weight of the edge between two patches that B does not connect."""

TOLERANCE = 1e-5
"""Error of an eigenvector, relative to its length, at which a solver stops."""

PRODUCT_ERROR = 1e-9
"""Lower bound on the residuals that can be reached with products of 34 bits."""

AFFINITY_ROWS = 192
"""Rows of the graph computed together: enough for a fast product, few enough to skip almost half of the graph."""

UNITS = 2.0**34
"""Numbers are rounded to multiples of 1 / UNITS before a product."""

DIGIT = 2.0**7
_PLACES = 2 / DIGIT ** torch.arange(1, 6, dtype=torch.float64)
_DIGITS = torch.cat([torch.zeros(1, dtype=torch.float64), 1 / _PLACES])
"""Values and scales of the five digits into which `NormalizedAffinity` splits a number; the first digit leaves room for
the sign."""


def affinity(unit: torch.Tensor, tau: float) -> torch.Tensor:
    """Compute the graphs: 1 where the cosine similarity of two patches is above `tau`, else 0.

    Similarities are full float32: with TF32 or half precision, one image in ten gets a different mask. A graph is
    symmetric, so each block of rows is computed from the diagonal on and mirrored below it.

    Args:
        unit: Patch features of length 1, float32 [B, n, C].
        tau: Threshold of the similarity.

    Returns:
        int8 or float64 [B, n, n], where the features are; `to_host` brings it to the CPU.
    """
    batch, n, _ = unit.shape
    adjacency = unit.new_empty(batch, n, n, dtype=fastest_type() if unit.device.type == "cpu" else torch.int8)
    # On a CPU, one image at a time: a product of several images would round differently.
    at_once = 1 if unit.device.type == "cpu" else batch
    with _full_precision:
        for graphs, images in zip(adjacency.split(at_once), unit.split(at_once), strict=True):
            for start in range(0, n, AFFINITY_ROWS):
                stop = min(start + AFFINITY_ROWS, n)
                similarity = _products(images[:, start:stop], images[:, start:])
                torch.gt(similarity, tau, out=graphs[:, start:stop, start:])
                graphs[:, stop:, start:stop] = graphs[:, start:stop, stop:].mT
    return adjacency


def to_host(graphs: torch.Tensor) -> torch.Tensor:
    """Copy graphs from a GPU to page-locked memory, several times as fast as to other memory; int8 [B, n, n]."""
    if graphs.device.type == "cpu":
        return graphs
    return torch.empty(graphs.shape, dtype=graphs.dtype, pin_memory=True).copy_(graphs)


def _products(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Compute all scalar products of rows [B, r, C] and columns [B, m, C] of the same image: [B, r, m]."""
    if len(rows) == 1 and onednn.is_faster(rows.device):
        return onednn.linear(rows, columns[0])
    return rows @ columns.mT


def fastest_type() -> torch.dtype:
    """The type in which products with a graph are fastest on this CPU; both types are exact.

    With 512-bit vectors this is int8, because the graph stays in the cache. Without them int8 is slow, and float64,
    which needs one row instead of five, is the fastest.
    """
    return torch.int8 if torch.backends.cpu.get_cpu_capability() == "AVX512" else torch.float64


class NormalizedAffinity:
    """The operator M of a graph on the CPU.

    Args:
        adjacency: The graph B, int8 or float64 [n, n] of 0 and 1.
        excluded: Patches whose edges do not count, bool [n].

    Attributes:
        scale: Diagonal of D^-1/2, float64 [n].
        trivial: The known top eigenvector, of length 1, float64 [n].
    """

    def __init__(self, adjacency: torch.Tensor, excluded: torch.Tensor):
        self._adjacency = adjacency
        keep = (~excluded).double()
        degree = keep * self._product(keep)
        root = (EPS * len(excluded) + (1 - EPS) * degree).sqrt()
        self.scale = 1 / root
        self.trivial = root / torch.linalg.vector_norm(root)
        self._isolated = degree <= 1
        self._into = keep * self.scale
        self._out = (1 - EPS) * self._into

    def times(self, vector: torch.Tensor) -> torch.Tensor:
        """Multiply M with a vector, float64 [n] of length at most 1."""
        product = self._product(self._into * vector).mul_(self._out)
        return product.add_(self.scale, alpha=EPS * torch.dot(vector, self.scale).item())

    def clear_isolated(self, vector: torch.Tensor) -> torch.Tensor:
        """Set a starting vector [n] to 0 on the patches without an edge.

        The wanted eigenvector has one value on all of these patches, and products keep their entries equal. An
        iteration that starts here therefore never finds the many eigenvectors that differ only on these patches and
        have nearly the same eigenvalue.
        """
        return vector.masked_fill(self._isolated, 0.0)

    def _product(self, vector: torch.Tensor) -> torch.Tensor:
        """Multiply B with a vector, float64 [n] in [-1, 1], to 34 bits.

        The vector is rounded to multiples of 2^-34. In float64, sums of such numbers are exact for up to 2^18 patches,
        in any order. For int8, each number is split into five digits of 7 bits, sign included, whose sums are exact in
        int32. The result therefore depends neither on the type nor on the number of threads. Reading B takes most of
        the time. The precision is needed for graphs with several components, whose eigenvalues differ by only about
        EPS.
        """
        if self._adjacency.dtype == torch.float64:
            return torch.mv(self._adjacency, (vector * UNITS).round_()).div_(UNITS)
        rounded = (vector * _DIGITS[:, None]).round_()  # [6, n], the first row 0
        digits = torch.sub(rounded[1:], rounded[:-1], alpha=DIGIT).to(torch.int8)
        return torch.mv(torch._int_mm(digits, self._adjacency).double().T, _PLACES)


def generic_vector(n: int) -> torch.Tensor:
    """A fixed starting vector, float64 [n] in [-0.5, 0.5): fractional parts of k^2 times the golden ratio."""
    index = torch.arange(1, n + 1, dtype=torch.float64)
    return (index.square() * 0.6180339887498949).frac() - 0.5


def residual_allowed(value: float, below: float, n: int) -> float:
    """Compute the residual at which the top eigenvector of M has converged.

    Its error is about residual / gap. Eigenvalues close to 1 belong to separate components of the graph and differ by
    only a few EPS. One of them may not be found yet, so near 1 the gap is assumed to be at most EPS.

    Args:
        value: Top eigenvalue.
        below: Next eigenvalue.
        n: Number of patches.
    """
    gap = value - below
    if 1 - value < EPS * n:
        gap = min(gap, EPS)
    return max(TOLERANCE * gap, PRODUCT_ERROR)


class _FullPrecision:
    """Context manager in which float32 products use full float32 precision.

    The precision is a setting of the process, so threads share it: the first thread to enter changes it, and the last
    to leave restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: list[str] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = _precisions()
                _set_precisions(_FULL)
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                _set_precisions(self._saved)


_mkldnn: Any = torch.backends.mkldnn  # its `matmul` is missing from PyTorch's type annotations

_BY_LIBRARY = hasattr(torch.backends.cuda.matmul, "fp32_precision")
"""Whether each library has its own setting (torch 2.9 and later) instead of one for all."""

_FULL = ["ieee", "ieee"] if _BY_LIBRARY else ["highest"]


def _precisions() -> list[str]:
    """Read the process's precision settings of float32 products."""
    if _BY_LIBRARY:
        return [torch.backends.cuda.matmul.fp32_precision, _mkldnn.matmul.fp32_precision]
    return [torch.get_float32_matmul_precision()]


def _set_precisions(values: list[str]) -> None:
    """Apply settings that `_precisions` returned."""
    if _BY_LIBRARY:
        torch.backends.cuda.matmul.fp32_precision, _mkldnn.matmul.fp32_precision = values
    else:
        torch.set_float32_matmul_precision(values[0])


_full_precision = _FullPrecision()

"""The graph of a normalised cut and its operator, for a batch of images on any device.

A graph B joins patches with similar features. With `A = EPS + (1 - EPS) B` and `D = diag(A 1)`, the operator is
`M = D^-1/2 A D^-1/2` (Shi and Malik 2000): an eigenvector x of M with eigenvalue mu is the eigenvector `D^-1/2 x` of
`(D - A) v = lambda D v` with lambda = 1 - mu. The first one is known, `D^1/2 1` with mu = 1; a solver keeps it out of
its basis, and the second one, which the cut wants, comes out on top.

B is built once an image. A patch that a mask has taken is void: its edges no longer count, in products and degrees.
"""

import threading

import torch

from hf_relabel.vision import onednn

EPS = 1e-5
"""Weight of the edge between two patches that are not joined."""

TOLERANCE = 1e-5
"""Error of an eigenvector, relative to its length, with which a solver may stop."""

PRODUCT_ERROR = 1e-9
"""What a residual cannot be expected to fall below, with products to 34 bits."""

AFFINITY_ROWS = 192
"""Rows of the graph computed at once: enough for a fast product, few enough to skip nearly half of it."""

DIGIT = 2.0**7
DIGITS = tuple(DIGIT**place / 2 for place in range(1, 6))
"""Scales of the five digits that `NormalisedAffinity` cuts a number into; the first leaves room for a sign."""


def affinity(unit: torch.Tensor, tau: float) -> torch.Tensor:
    """The graphs, [B, n, n] of 0 and 1: which patches, unit features [B, n, C], have a similarity above tau.

    In full float32: with TF32 or half precision, one image in ten gets another mask. A graph is symmetric, so each
    block of rows is computed from the diagonal on and copied below it.
    """
    batch, n, _ = unit.shape
    joined = unit.new_empty(batch, n, n, dtype=_graph_dtype(unit))
    # On a CPU one by one, as the product of several images at once would round otherwise.
    at_once = 1 if unit.device.type == "cpu" else batch
    with _full_precision:
        for graphs, images in zip(joined.split(at_once), unit.split(at_once), strict=True):
            for start in range(0, n, AFFINITY_ROWS):
                stop = min(start + AFFINITY_ROWS, n)
                similarity = _products(images[:, start:stop], images[:, start:])
                torch.gt(similarity, tau, out=graphs[:, start:stop, start:])
                graphs[:, stop:, start:stop] = graphs[:, start:stop, stop:].mT
    return joined


def _products(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Every scalar product of rows [B, r, C] with columns [B, m, C] of the same image: [B, r, m]."""
    if len(rows) == 1 and onednn.is_faster(rows.device):
        return onednn.linear(rows, columns[0])
    return rows @ columns.mT


def _graph_dtype(unit: torch.Tensor) -> torch.dtype:
    """How the graphs of unit features [B, n, C] are stored: in the type whose products are fastest, all being exact.

    One graph on a CPU with 512-bit vectors: int8, three times faster than float32 as it stays in the cache. Without
    such vectors int8 is the slower one, and for batches PyTorch has no int8 product.
    """
    one_on_cpu = len(unit) == 1 and unit.device.type == "cpu"
    return torch.int8 if one_on_cpu and torch.backends.cpu.get_cpu_capability() == "AVX512" else torch.float32


class NormalisedAffinity:
    """M of a batch of graphs, [B, n, n] of 0 and 1, without the edges of `void` patches, bool [B, n].

    Attributes:
        scale: The diagonal of D^-1/2, float64 [B, n].
        trivial: The first eigenvector, of unit length, float64 [B, 1, n].
    """

    def __init__(self, joined: torch.Tensor, void: torch.Tensor):
        self._joined = joined
        self._digits = torch.tensor(DIGITS, dtype=torch.float64, device=joined.device)[:, None, None]
        keep = (~void).double()[:, None]
        degree = keep * self._product(keep)
        root = (EPS * void.shape[1] + (1 - EPS) * degree).sqrt()
        scale = 1 / root
        self.scale = scale[:, 0]
        self.trivial = root / torch.linalg.vector_norm(root, dim=2, keepdim=True)
        self._alone = degree <= 1
        self._into = keep * scale
        self._out = (1 - EPS) * self._into
        self._everywhere = EPS * scale

    def __matmul__(self, vectors: torch.Tensor) -> torch.Tensor:
        """M times each of the vectors, float64 [B, p, n] of at most unit length."""
        joined = self._out * self._product(self._into * vectors)
        return joined.addcmul_(vectors @ self.scale[:, :, None], self._everywhere)

    def even(self, vectors: torch.Tensor) -> torch.Tensor:
        """Starting vectors [B, p, n], made 0 on the patches that are joined to none.

        There the wanted eigenvector has one value, and products keep such entries equal. So the many eigenvectors that
        differ on these patches only, and lie close by, are never met.
        """
        return vectors.masked_fill(self._alone, 0.0)

    def _product(self, vectors: torch.Tensor) -> torch.Tensor:
        """B times each of the vectors, float64 [B, p, n] within -1 and 1, to 34 bits, by one product of small numbers.

        A vector is rounded to whole numbers of 2^-34, which are cut into five digits of 7 bits, sign included. Sums
        of digits are exact in int32, and up to 2^18 patches in float32, in any order: neither the number of threads
        nor the device nor the rest of the batch decides a bit. And as reading B takes most of the time, five rows
        cost little more than one. The precision is needed where a graph has fallen apart: eigenvalues then differ by
        EPS only.
        """
        batch, _, n = vectors.shape
        digits = (vectors[:, None] * self._digits).round_()  # [B, 5, p, n]
        digits[:, 1:] -= DIGIT * digits[:, :-1]
        rows = digits.to(self._joined.dtype).view(batch, -1, n)
        sums = torch._int_mm(rows[0], self._joined[0]) if rows.dtype == torch.int8 else rows @ self._joined
        return (sums.view_as(digits) / self._digits).sum(dim=1)


def generic_vectors(count: int, n: int, device: torch.device) -> torch.Tensor:
    """Fixed vectors to start from, float64 [count, n] within -0.5 and 0.5: fractions of k^2 times the golden ratio."""
    index = torch.arange(1, count * n + 1, dtype=torch.float64, device=device)
    return (index.square() * 0.6180339887498949).frac().view(count, n) - 0.5


def residual_allowed(value: torch.Tensor, below: torch.Tensor, n: int) -> torch.Tensor:
    """Residual, [B], at which the eigenvector of the top eigenvalue [B] of M, with the next one below it, is done.

    Its error is about residual / gap. Close to 1 lie the eigenvalues of a graph's separate parts, only some EPS from
    each other, and one of them may be met before the other: there the gap is not what it seems.
    """
    gap = value - below
    gap = torch.where(1 - value < EPS * n, gap.clamp(max=EPS), gap)
    return (TOLERANCE * gap).clamp(min=PRODUCT_ERROR)


class _FullPrecision:
    """Inside, float32 products are full float32, whatever the process allows; afterwards its settings are back.

    The settings belong to the process, so threads share one change of them: the first in makes it, the last out
    takes it back.
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


_BY_LIBRARY = hasattr(torch.backends.cuda.matmul, "fp32_precision")
"""Whether each library has its own setting: from torch 2.9 on. Before, one was for all."""

_FULL = ["ieee", "ieee"] if _BY_LIBRARY else ["highest"]


def _precisions() -> list[str]:
    """How the process computes float32 products."""
    if _BY_LIBRARY:
        return [torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision]
    return [torch.get_float32_matmul_precision()]


def _set_precisions(values: list[str]) -> None:
    """Set what `_precisions` gives."""
    if _BY_LIBRARY:
        torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision = values
    else:
        torch.set_float32_matmul_precision(values[0])


_full_precision = _FullPrecision()

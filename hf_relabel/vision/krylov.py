"""The wanted eigenvectors of a batch of graphs by block Lanczos iteration, the same code on any device.

WIDTH vectors of every graph go through one product together (Golub and Underwood, "The block Lanczos method for
computing eigenvalues", 1977). Reading the graphs from memory is what takes the time, so four vectors cost little more
than one, and fewer steps do. Every round starts from what the round before has learned.

The host waits for the device only where it asks whether a graph has converged. A graph's result is fixed when it has,
whatever else is in the batch.
"""

import torch

from hf_relabel.vision.ncut import NormalisedAffinity, generic_vectors, residual_allowed

WIDTH = 4
MAX_STEPS = 48
CHECKED_STEPS = (4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 40, MAX_STEPS)

JITTER = 1e-14
"""Added to the squares of lengths, relative to them, so that rounding cannot make a Gram matrix indefinite."""

NOISE = 4 * JITTER
"""Squared share of a vector below which its part outside the basis is rounding: as a direction it would bring false
eigenvalues."""

TINY = 1e-200

SAME = 1e-8
"""Eigenvalues that lie so close count as one, with an eigenspace of more dimensions than one."""


class Krylov:
    """Solves a batch of graphs, float32 [B, n, n] of 0 and 1, again and again as patches leave them."""

    def __init__(self, joined: torch.Tensor):
        batch, n, _ = joined.shape
        self._joined = joined
        self._generic = generic_vectors(WIDTH, n, joined.device)
        self._start = self._generic.expand(batch, -1, -1)
        self._vector = self._generic.new_zeros(batch, 1, n)
        self._value = self._generic.new_zeros(batch)

    def solve(self, void: torch.Tensor, changed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Eigenvectors v, float64 [B, n], and eigenvalues of M, [B], without the edges of void patches, bool [B, n].

        Both are 0 where the trivial eigenvector is all there is. Graphs that are not `changed`, bool [B], have what
        they had.
        """
        batch, n = void.shape
        matrix = NormalisedAffinity(self._joined, void)
        basis = matrix.trivial.new_empty(batch, 1 + (MAX_STEPS + 1) * WIDTH, n)
        basis[:, :1] = matrix.trivial
        projected = basis.new_zeros(batch, MAX_STEPS * WIDTH, MAX_STEPS * WIDTH)  # M on the basis, lower triangle
        _extend(basis, 1, matrix.even(self._start))
        running = changed
        for step in range(1, MAX_STEPS + 1):
            size = step * WIDTH  # of the basis without the trivial eigenvector
            inside, outside = _extend(basis, 1 + size, matrix @ basis[:, 1 + size - WIDTH : 1 + size])
            projected[:, size - WIDTH : size, :size] = inside[:, :, 1:]
            if step in CHECKED_STEPS:
                ritz = _Ritz(basis[:, 1 : 1 + size + WIDTH], projected[:, :size, :size], outside)
                fixed = running & (ritz.converged() | (step == MAX_STEPS))
                if fixed.any():
                    self._keep(ritz, fixed)
                    running = running & ~fixed
                    if not running.any():
                        break
        return matrix.scale * self._vector[:, 0], self._value

    def _keep(self, ritz: "_Ritz", fixed: torch.Tensor) -> None:
        """Stores the results of the graphs that are `fixed`, bool [B], and what their next round starts from."""
        top, others = ritz.vectors(self._generic[:1])
        start = torch.cat([self._generic[:1].expand_as(top), others], dim=1)
        self._value = torch.where(fixed, ritz.values[:, -1], self._value)
        self._vector = torch.where(fixed[:, None, None], top, self._vector)
        self._start = torch.where(fixed[:, None, None], start, self._start)


class _Ritz:
    """Eigenvalues and eigenvectors of M as seen from a basis of k vectors (Rayleigh and Ritz).

    Args:
        basis: Orthonormal rows, the k of the basis and the WIDTH that would come next, [B, k + WIDTH, n].
        projected: M on the basis, [B, k, k]; the lower triangle counts.
        outside: Coordinates of M times the last WIDTH rows of the basis in those that come next, [B, WIDTH, WIDTH].
    """

    def __init__(self, basis: torch.Tensor, projected: torch.Tensor, outside: torch.Tensor):
        self._basis = basis
        self.values, self._weights = torch.linalg.eigh(projected)  # ascending
        self._beyond = self._weights[:, -WIDTH:].mT @ outside  # [B, k, WIDTH], M x - value x in the next rows
        self._same = self.values > self.values[:, -1:] - SAME

    def converged(self) -> torch.Tensor:
        """Whether the top eigenvector is done, bool [B]; all that share its eigenvalue if there are more."""
        residual = torch.where(self._same, self._beyond.norm(dim=2), 0.0).amax(dim=1)
        below = self.values.masked_fill(self._same, -torch.inf).amax(dim=1)
        return residual < residual_allowed(self.values[:, -1], below, self._basis.shape[2])

    def vectors(self, generic: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The top eigenvector, [B, 1, n], and the next WIDTH - 1, [B, WIDTH - 1, n].

        Of an eigenspace with more dimensions than one any vector would do; taken is the part in it of `generic`,
        [1, n]. The top one is given as M times the Ritz vector: that is at hand, and has a fifth of its error.
        """
        size = self.values.shape[1]
        share = generic @ self._basis[:, :size].mT @ self._weights  # [B, 1, k]
        share = torch.where(self._same[:, None], share, 0.0)
        share = share / share.norm(dim=2, keepdim=True).clamp(min=TINY)
        top = torch.cat([self.values[:, None] * share @ self._weights.mT, share @ self._beyond], dim=2)
        others = torch.nn.functional.pad(self._weights[:, :, -WIDTH:-1].mT, (0, WIDTH))
        vectors = torch.cat([top, others], dim=1) @ self._basis
        return vectors[:, :1], vectors[:, 1:]


def _extend(basis: torch.Tensor, size: int, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Adds what is new in vectors, [B, p, n], as rows `size` to `size + p` of orthonormal bases, [B, K, n].

    A direction that is only rounding becomes a zero row. By Cholesky factors of Gram matrices, twice: the second time
    mends what rounding let through the first time (Yamamoto et al., "Roundoff error analysis of the CholeskyQR2
    algorithm", 2015).

    Returns:
        `inside` [B, p, size] and `outside` [B, p, p], the vectors' coordinates in the old rows and in the new ones.
    """
    count = vectors.shape[1]
    rows = basis[:, : size + count]
    rows[:, size:] = vectors
    unit = torch.eye(count, dtype=basis.dtype, device=basis.device).expand(len(basis), -1, -1)
    coordinates = []
    for _ in range(2):
        inside, gram = (rows[:, size:] @ rows.mT).split([size, count], dim=2)
        lengths = gram.diagonal(dim1=1, dim2=2)
        rest = torch.baddbmm(gram, inside, inside.mT, alpha=-1)
        rest.diagonal(dim1=1, dim2=2).add_(JITTER * lengths + TINY)
        factor = torch.linalg.cholesky_ex(rest).L
        is_new = factor.diagonal(dim1=1, dim2=2).square() > NOISE * lengths
        combination = torch.linalg.solve_triangular(factor, torch.cat([-inside, unit], dim=2), upper=False)
        rows[:, size:] = (combination * is_new[:, :, None]) @ rows
        coordinates.append((inside, factor * is_new[:, None]))
    return coordinates[0]

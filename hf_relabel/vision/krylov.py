"""The second eigenvectors of a batch of graphs by block Lanczos iteration.

Kept for GPUs, pending a GPU benchmark that justifies it; `propose.solver: auto` never chooses it on a CPU.

One product multiplies WIDTH vectors of every graph (Golub and Underwood, "The block Lanczos method for computing
eigenvalues", 1977). Most of the time goes into reading the graphs from memory, so four vectors cost little more than
one and need fewer steps. Every round starts from the eigenvectors of the previous round.

The host synchronizes with the device only to ask which graphs have converged. A graph's result is final once it has
converged and does not depend on the rest of the batch.
"""

import torch

from hf_relabel.vision.ncut import NormalizedAffinity, generic_vectors, residual_allowed

WIDTH = 4
MAX_STEPS = 48
CHECKED_STEPS = (4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 40, MAX_STEPS)

JITTER = 1e-14
"""Share of the squared lengths added to a Gram matrix's diagonal, so that rounding cannot make it indefinite."""

NOISE = 4 * JITTER
"""Squared share of a vector below which its part outside the basis is rounding error. Used as a basis vector, it would
add false eigenvalues."""

TINY = 1e-100

SAME = 1e-8
"""Difference below which eigenvalues count as one eigenvalue with a multidimensional eigenspace."""


class Krylov:
    """Solver for a batch of graphs, float32 [B, n, n] of 0 and 1, from which each round excludes more patches."""

    def __init__(self, adjacency: torch.Tensor):
        batch, n, _ = adjacency.shape
        self._adjacency = adjacency
        self._generic = generic_vectors(WIDTH, n, adjacency.device)
        self._start = self._generic.expand(batch, -1, -1)
        self._vector = self._generic.new_zeros(batch, 1, n)
        self._value = self._generic.new_zeros(batch)

    def solve(self, excluded: torch.Tensor, changed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the second eigenvector and its eigenvalue for every graph that has changed.

        Args:
            excluded: Patches whose edges do not count, bool [B, n].
            changed: Graphs to solve, bool [B]; the others keep their previous result.

        Returns:
            Eigenvectors v, float64 [B, n], and eigenvalues of M, float64 [B]; both 0 for a graph without a second
            eigenvector.
        """
        batch, n = excluded.shape
        matrix = NormalizedAffinity(self._adjacency, excluded)
        basis = matrix.trivial.new_empty(batch, 1 + (MAX_STEPS + 1) * WIDTH, n)
        basis[:, :1] = matrix.trivial
        projected = basis.new_zeros(batch, MAX_STEPS * WIDTH, MAX_STEPS * WIDTH)  # M in the basis, lower triangle
        _extend(basis, 1, matrix.clear_isolated(self._start))
        running = changed
        for step in range(1, MAX_STEPS + 1):
            size = step * WIDTH  # of the basis, without the trivial eigenvector
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
        """Store the results of the `fixed` graphs, bool [B], and the starting vectors of their next round."""
        top, others = ritz.vectors(self._generic[:1])
        start = torch.cat([self._generic[:1].expand_as(top), others], dim=1)
        self._value = torch.where(fixed, ritz.values[:, -1], self._value)
        self._vector = torch.where(fixed[:, None, None], top, self._vector)
        self._start = torch.where(fixed[:, None, None], start, self._start)


class _Ritz:
    """Ritz values and vectors: approximate eigenvalues and eigenvectors of M from a basis of k vectors.

    Args:
        basis: Orthonormal rows, [B, k + WIDTH, n]: the k basis vectors and the next WIDTH.
        projected: M in the basis, [B, k, k]; only the lower triangle is read.
        outside: Coordinates of M times the last WIDTH basis vectors in the next WIDTH, [B, WIDTH, WIDTH].
    """

    def __init__(self, basis: torch.Tensor, projected: torch.Tensor, outside: torch.Tensor):
        self._basis = basis
        self.values, self._weights = torch.linalg.eigh(projected)  # ascending
        self._beyond = self._weights[:, -WIDTH:].mT @ outside  # [B, k, WIDTH]: M x - value x in the next rows
        self._same = self.values > self.values[:, -1:] - SAME

    def converged(self) -> torch.Tensor:
        """Whether the top eigenvector, and any others that share its eigenvalue, have converged: bool [B]."""
        residual = torch.where(self._same, self._beyond.norm(dim=2), 0.0).amax(dim=1)
        below = self.values.masked_fill(self._same, -torch.inf).amax(dim=1)
        return residual < residual_allowed(self.values[:, -1], below, self._basis.shape[2])

    def vectors(self, generic: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the top eigenvector, [B, 1, n], and the next WIDTH - 1, [B, WIDTH - 1, n].

        From a multidimensional eigenspace, the projection of `generic`, [1, n], is chosen. The top eigenvector is
        returned as M times the Ritz vector, which needs no extra product and has a fifth of the Ritz vector's error.
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
    """Orthonormalize vectors, [B, p, n], into rows `size` to `size + p` of orthonormal bases, [B, K, n].

    A direction that is only rounding error becomes a zero row. The Cholesky factorization of the Gram matrix is applied
    twice; the second pass corrects the rounding error of the first (Yamamoto et al., "Roundoff error analysis of the
    CholeskyQR2 algorithm", 2015).

    Returns:
        Coordinates of the vectors in the old rows, [B, p, size], and in the new rows, [B, p, p].
    """
    count = vectors.shape[1]
    rows = basis[:, : size + count]
    lengths = torch.linalg.vector_norm(vectors, dim=2, keepdim=True)
    is_new = lengths[:, :, 0] > TINY
    # Of length 1, so that no entry of the factor is tiny: a GPU solves by inverting blocks, whose products overflow.
    rows[:, size:] = torch.where(is_new[:, :, None], vectors / lengths.clamp(min=TINY), 0.0)
    unit = torch.eye(count, dtype=basis.dtype, device=basis.device).expand(len(basis), -1, -1)
    coordinates = []
    for _ in range(2):
        inside, gram = (rows[:, size:] @ rows.mT).split([size, count], dim=2)
        rest = torch.baddbmm(gram, inside, inside.mT, alpha=-1)
        rest.diagonal(dim1=1, dim2=2).add_(torch.where(is_new, JITTER, 1.0))
        factor = torch.linalg.cholesky_ex(rest).L
        is_new = is_new & (factor.diagonal(dim1=1, dim2=2).square() > NOISE)
        combination = torch.linalg.solve_triangular(factor, torch.cat([-inside, unit], dim=2), upper=False)
        rows[:, size:] = (combination * is_new[:, :, None]) @ rows
        coordinates.append((lengths * inside, lengths * factor * is_new[:, None]))
    return coordinates[0]

"""The second eigenvector of one graph by Lanczos iteration (Golub and Van Loan, "Matrix Computations", chapter 10).

The iteration adds one vector at a time, orthogonalized against all previous ones, and needs about ten to twenty
products with the graph. Every round starts from the same fixed vector, so its result depends only on its graph.
"""

import torch

from hf_relabel.vision.ncut import NormalizedAffinity, fastest_type, generic_vectors, residual_allowed

MAX_STEPS = 256
FIRST_CHECK, CHECK_EVERY = 6, 2

NOISE = 1e-12
"""Length below which the remainder of a vector is rounding error and the Krylov space is complete."""


class Lanczos:
    """Solver for one graph on the CPU, [1, n, n] of 0 and 1, from which each round excludes more patches."""

    def __init__(self, adjacency: torch.Tensor):
        self._adjacency = adjacency.to(fastest_type())
        self._start = generic_vectors(1, adjacency.shape[1])

    def solve(self, excluded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the second eigenvector and its eigenvalue.

        Args:
            excluded: Patches whose edges do not count, bool [1, n].

        Returns:
            Eigenvector v, float64 [1, n], and eigenvalue of M, float64 [1]; both 0 if there is no second eigenvector.
        """
        matrix = NormalizedAffinity(self._adjacency, excluded)
        n = excluded.shape[1]
        basis = matrix.trivial.new_empty(1 + MAX_STEPS, n)
        basis[0] = matrix.trivial[0]
        projected = basis.new_zeros(1 + MAX_STEPS, MAX_STEPS)  # M in the basis: tridiagonal, lower half
        vector, length = _orthogonal_rest(matrix.clear_isolated(self._start)[0, 0], basis[:1])
        if length < NOISE:
            return torch.zeros_like(matrix.scale), basis.new_zeros(1)
        for size in range(1, MAX_STEPS + 1):
            basis[size] = vector / length
            vector = (matrix @ basis[None, size : size + 1])[0, 0]
            projected[size - 1, size - 1] = basis[size] @ vector
            vector, length = _orthogonal_rest(vector, basis[: size + 1])
            projected[size, size - 1] = length
            complete = length < NOISE or size == MAX_STEPS
            if complete or (size >= FIRST_CHECK and size % CHECK_EVERY == 0):
                values, weights = torch.linalg.eigh(projected[:size, :size])
                residual = length * weights[-1, -1].abs()
                if complete or residual < residual_allowed(values[-1], values[-2], n):
                    break
        # M times the Ritz vector needs no extra product and has a fifth of the Ritz vector's error.
        top = values[-1] * (weights[:, -1] @ basis[1 : size + 1]) + weights[-1, -1] * vector
        return matrix.scale * top, values[-1:]


def _orthogonal_rest(vector: torch.Tensor, basis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the part of a vector [n] that is orthogonal to an orthonormal basis [k, n], and its length."""
    for _ in range(2):  # the second pass removes the rounding error of the first
        vector = vector - (basis @ vector) @ basis
    return vector, torch.linalg.vector_norm(vector)

"""The wanted eigenvector of one graph by Lanczos iteration (Golub and Van Loan, "Matrix Computations", chapter 10).

One vector at a time, each kept orthogonal to all before: some ten to twenty products with the graph. A round starts
from the same fixed vector as every other, so its result depends on its graph alone.
"""

import torch

from hf_relabel.vision.ncut import NormalisedAffinity, generic_vectors, residual_allowed

MAX_STEPS = 256
FIRST_CHECK, CHECK_EVERY = 6, 2

NOISE = 1e-12
"""Length below which the rest of a vector is rounding, and the Krylov space complete."""


class Lanczos:
    """Solves one graph, [1, n, n] of 0 and 1, again and again as patches leave it."""

    def __init__(self, joined: torch.Tensor):
        self._joined = joined
        self._start = generic_vectors(1, joined.shape[1], joined.device)

    def solve(self, void: torch.Tensor, changed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Eigenvector v, float64 [1, n], and eigenvalue of M, [1], without the edges of void patches, bool [1, n].

        Both are 0 where the trivial eigenvector is all there is. `changed` is for solvers of many graphs.
        """
        matrix = NormalisedAffinity(self._joined, void)
        n = void.shape[1]
        basis = matrix.trivial.new_empty(1 + MAX_STEPS, n)
        basis[0] = matrix.trivial[0]
        projected = basis.new_zeros(1 + MAX_STEPS, MAX_STEPS)  # M on the basis: tridiagonal, its lower half
        vector, length = _orthogonal_rest(matrix.even(self._start)[0, 0], basis[:1])
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
        # M times the Ritz vector rather than the Ritz vector itself: it is at hand, and has a fifth of the error.
        top = values[-1] * (weights[:, -1] @ basis[1 : size + 1]) + weights[-1, -1] * vector
        return matrix.scale * top, values[-1:]


def _orthogonal_rest(vector: torch.Tensor, basis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What of a vector [n] is orthogonal to an orthonormal basis [k, n], and its length."""
    for _ in range(2):  # the second time removes the rounding of the first
        vector = vector - (basis @ vector) @ basis
    return vector, torch.linalg.vector_norm(vector)

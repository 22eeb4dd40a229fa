"""The second eigenvector of one graph by Lanczos iteration (Golub and Van Loan, "Matrix Computations", chapter 10).

The iteration adds one vector at a time, orthogonalized against all previous ones, and needs about ten to twenty
products with the graph. Every round starts from the same fixed vector, so its result depends only on its graph.
"""

import numpy as np
import torch

from hf_relabel.vision.ncut import NormalizedAffinity, fastest_type, generic_vector, residual_allowed

MAX_STEPS = 256
FIRST_CHECK, CHECK_EVERY = 6, 2

NOISE = 1e-12
"""Length below which the remainder of a vector is rounding error and the Krylov space is complete."""


class Lanczos:
    """Solver for one graph on the CPU, [n, n] of 0 and 1, from which each round excludes more patches."""

    def __init__(self, adjacency: torch.Tensor):
        self._adjacency = adjacency.to(fastest_type())
        self._start = generic_vector(len(adjacency))

    @torch.inference_mode()
    def solve(self, excluded: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Compute the second eigenvector and its eigenvalue.

        Args:
            excluded: Patches whose edges do not count, bool [n].

        Returns:
            Eigenvector v, float64 [n], and eigenvalue of M; both 0 if there is no second eigenvector.
        """
        matrix = NormalizedAffinity(self._adjacency, excluded)
        n = len(excluded)
        basis = torch.empty(1 + MAX_STEPS, n, dtype=torch.float64)
        basis[0] = matrix.trivial
        projected = np.zeros((1 + MAX_STEPS, MAX_STEPS))  # M in the basis: tridiagonal, lower half
        vector, length = _orthogonal_rest(matrix.clear_isolated(self._start), basis[:1])
        if length < NOISE:
            return torch.zeros(n, dtype=torch.float64), 0.0
        for size in range(1, MAX_STEPS + 1):
            last = torch.div(vector, length, out=basis[size])
            vector = matrix.times(last)
            projected[size - 1, size - 1] = torch.dot(last, vector).item()
            vector, length = _orthogonal_rest(vector, basis[: size + 1])
            projected[size, size - 1] = length
            complete = length < NOISE or size == MAX_STEPS
            if complete or (size >= FIRST_CHECK and size % CHECK_EVERY == 0):
                # NumPy: for matrices this small, calling PyTorch takes several times as long as the eigenvectors.
                values, weights = np.linalg.eigh(projected[:size, :size])
                residual = length * abs(weights[-1, -1])
                if complete or residual < residual_allowed(values[-1], values[-2], n):
                    break
        # M times the Ritz vector needs no extra product and has a fifth of the Ritz vector's error.
        ritz = torch.mv(basis[1 : size + 1].T, torch.from_numpy(weights[:, -1] * values[-1]))
        return ritz.add_(vector, alpha=weights[-1, -1]).mul_(matrix.scale), float(values[-1])


def _orthogonal_rest(vector: torch.Tensor, basis: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the part of a vector [n] that is orthogonal to an orthonormal basis [k, n], and its length."""
    for _ in range(2):  # the second pass removes the rounding error of the first
        vector = torch.addmv(vector, basis.T, torch.mv(basis, vector), alpha=-1)
    return vector, torch.linalg.vector_norm(vector).item()

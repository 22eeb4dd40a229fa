"""The eigenvector of a normalised cut by Lanczos iteration: one image, on the CPU.

Wanted is the second eigenvector of `M = D^-1/2 A D^-1/2` with `A = EPS + (1 - EPS) B`, B the 0/1 graph. The first one
is known, `D^1/2 1` with eigenvalue 1; kept out of the Krylov space, it leaves the wanted one on top, where Lanczos
(Golub and Van Loan, "Matrix Computations", chapter 10) finds it in some 20 products with B.

Vectors are float64 although B is float32: where a graph has fallen apart, eigenvalues differ by EPS only. A product is
nearly as fast as a float32 one all the same, see `product`.
"""

import torch

EPS = 1e-5
"""Weight of the edge between two patches that are not joined."""

TOLERANCE = 1e-4
"""Error of the eigenvector at which the iteration stops: its residual over the gap to the next eigenvalue."""

MAX_STEPS = 256
CHECK_EVERY = 4


class Lanczos:
    """Solves one image's graph, float32 [n, n] of 0 and 1, again and again as patches leave it."""

    def __init__(self, joined: torch.Tensor):
        self.joined = joined
        self.start = generic_vector(len(joined))

    def solve(self, void: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Eigenvector v, float64 [1, n], and eigenvalue of M, [1], of the graph without the edges of void, bool [1, n].

        The eigenvalue is 1 - lambda; 0 where the trivial eigenvector is all there is.
        """
        n = len(self.joined)
        keep = (~void[0]).double()
        neighbours = keep * product(self.joined, keep)
        scale = (EPS * n + (1 - EPS) * neighbours).rsqrt()

        basis = torch.zeros(min(MAX_STEPS, n) + 1, n, dtype=torch.float64)
        basis[0] = 1 / scale
        basis[0] /= basis[0].norm()
        # One value on all patches that are joined to none: so they stay equal, as they are in the wanted eigenvector,
        # and the many eigenvectors that differ on these patches only are never met.
        vector = torch.where(neighbours > 1, self.start, 0.0)
        vector, length = _orthogonal_rest(vector, basis[:1])
        diagonal: list[float] = []
        lengths: list[float] = []
        for size in range(1, len(basis)):
            if length < 1e-12:
                break
            lengths.append(length)
            basis[size] = vector / length
            spread = scale * basis[size]
            vector = scale * (EPS * spread.sum() + (1 - EPS) * keep * product(self.joined, keep * spread))
            diagonal.append(float(basis[size] @ vector))
            vector, length = _orthogonal_rest(vector, basis[: size + 1])
            if size % CHECK_EVERY == 0 and self._converged(diagonal, lengths, length):
                break
        if not diagonal:
            return torch.zeros(1, n, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        values, coordinates = _ritz(diagonal, lengths)
        eigenvector = scale * (coordinates[:, -1] @ basis[1 : len(diagonal) + 1])
        return eigenvector[None], values[-1:]

    def _converged(self, diagonal: list[float], lengths: list[float], rest: float) -> bool:
        values, coordinates = _ritz(diagonal, lengths)
        residual = rest * abs(float(coordinates[-1, -1]))
        gap = float(values[-1] - values[-2])
        # So near to 1 are the eigenvalues of a graph's separate parts: EPS apart, and met one after the other.
        if 1 - float(values[-1]) < 2 * EPS * len(self.joined):
            gap = min(gap, EPS)
        return residual < TOLERANCE * gap


def product(joined: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """`joined @ vector` for a symmetric float32 [n, n] of 0 and 1 and float64 [n] within -1 and 1, to 36 bits.

    The vector is rounded to whole numbers of 2^-36, and these are cut into three of at most 12 bits, sign included.
    A float32 sum of up to 8192 such numbers is exact in any order, so neither the threads nor the device decide a
    bit of it; and as the matrix is read once for the three rows, it takes hardly longer than one float32 product.
    """
    digits = (vector * vector.new_tensor([[2.0**12], [2.0**24], [2.0**36]])).round()
    digits[1:] -= 2.0**12 * digits[:-1]
    sums = digits.float() @ joined
    return vector.new_tensor([2.0**-12, 2.0**-24, 2.0**-36]) @ sums.double()


def generic_vector(n: int) -> torch.Tensor:
    """Fixed start of every iteration, float64 [n] within -0.5 and 0.5: the fractions of k^2 times the golden ratio."""
    index = torch.arange(1, n + 1, dtype=torch.float64)
    return (index.square() * 0.6180339887498949).frac() - 0.5


def _orthogonal_rest(vector: torch.Tensor, basis: torch.Tensor) -> tuple[torch.Tensor, float]:
    """What of a vector [n] is orthogonal to an orthonormal basis [k, n], and its length."""
    for _ in range(2):  # the second time removes the rounding of the first
        vector = vector - (basis @ vector) @ basis
    return vector, float(vector.norm())


def _ritz(diagonal: list[float], lengths: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues, ascending, and eigenvectors of the tridiagonal matrix; lengths[0] is the start's, not its."""
    off = torch.tensor(lengths[1:], dtype=torch.float64)
    return torch.linalg.eigh(torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(off, -1))

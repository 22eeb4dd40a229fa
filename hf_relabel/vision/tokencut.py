"""TokenCut: one object per image, by one normalized cut (Wang et al., CVPR 2022, section 3).

The graph is that of MaskCut (`maskcut.py`), which repeats this cut. TokenCut takes the foreground to be the side that
holds the entry of largest magnitude, without MaskCut's look at the image's corners, and stops after one object.
"""

import numpy as np
import torch

from hf_relabel.vision.lanczos import Lanczos
from hf_relabel.vision.maskcut import MIN_EIGENVALUE, component
from hf_relabel.vision.ncut import affinity, to_host


def tokencut(features: torch.Tensor, grid: tuple[int, int], tau: float) -> np.ndarray:
    """Find the most salient object of an image.

    Args:
        features: Patch features in row-major order, float [n, C] with n = h * w.
        grid: Patches down and across, (h, w).
        tau: Cosine similarity above which two patches are connected, in [0, 1).

    Returns:
        bool [k, h, w] with k 1, or 0 where all patches are alike or a feature is not finite.
    """
    if features.dim() != 2 or len(features) != grid[0] * grid[1]:
        raise ValueError(f"tokencut: expected features [{grid[0]} * {grid[1]}, C], got {list(features.shape)}")
    nothing = np.zeros((0, *grid), bool)
    features = features.float()
    if not torch.isfinite(features).all():
        return nothing
    unit = torch.nn.functional.normalize(features, dim=1)[None]
    (graph,) = to_host(affinity(unit, tau))
    eigenvector, eigenvalue = Lanczos(graph).solve(torch.zeros(len(features), dtype=torch.bool))
    if eigenvalue <= MIN_EIGENVALUE:
        return nothing
    values = eigenvector.numpy()
    seed = int(np.abs(values).argmax())
    side = values > values.mean()
    return component(side if side[seed] else ~side, seed, grid).reshape(1, *grid)

"""Generated patch features that contain objects: fast, for any grid and number of channels, without a model."""

import numpy as np
import torch
from scipy import ndimage


def scene(seed: int, grid: tuple[int, int], channels: int) -> torch.Tensor:
    """Generate features, float32 [h * w, channels], of 1 to 4 ellipses on a background of two kinds.

    All patches share a component, so that at tau 0.4 about a third of the pairs are connected, as with a real ViT. Each
    kind has its own direction, which noise of three scales varies from patch to patch.
    """
    rng = np.random.default_rng(seed)
    height, width = grid
    kind = (ndimage.gaussian_filter(rng.normal(size=grid), height / 6) > 0).astype(int)
    rows, columns = np.mgrid[0:height, 0:width]
    for index in range(rng.integers(1, 5)):
        y, x = rng.uniform(0.15, 0.85, 2) * grid
        ry, rx = rng.uniform(0.1, 0.3, 2) * grid
        kind[((rows - y) / ry) ** 2 + ((columns - x) / rx) ** 2 < 1] = 2 + index
    features = (rng.normal(size=(6, channels)) + rng.uniform(0.5, 1.0) * rng.normal(size=channels))[kind]
    for sigma in (0.4, height / 16, height / 5):
        noise = ndimage.gaussian_filter(rng.normal(size=(*grid, channels)), (sigma, sigma, 0), truncate=3)
        features = features + 0.6 * noise / noise.std()
    return torch.from_numpy(features.reshape(-1, channels)).float()

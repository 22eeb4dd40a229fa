"""Feature pooling: a region's feature is the mean of the patch features under its mask."""

import torch


def pool(region: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Average an image's patch features under each mask (arXiv 2603.05729, section 3).

    An empty mask selects all patches, the whole image.

    Args:
        region: Features of the n patches, float32 [n, D].
        masks: m masks over the patches, bool [m, n], on any device.

    Returns:
        float32 [m, D], on the device of `region`.
    """
    weights = _non_empty(masks).to(region)
    return (weights @ region) / weights.sum(dim=1, keepdim=True)


def pool_views(
    region: torch.Tensor, masks: torch.Tensor, views: int, drop: float, generator: torch.Generator
) -> torch.Tensor:
    """Average as `pool` does over random subsets of each mask's patches (patch dropout, section 3).

    round(drop * c) of a mask's c patches are dropped, but never all of them.

    Args:
        region: Features of the n patches, float32 [n, D].
        masks: m masks over the patches, bool [m, n].
        views: Number of subsets per mask.
        drop: Share of a mask's patches to drop, in [0, 1).
        generator: Only source of randomness; the same state gives the same views.

    Returns:
        float32 [m, views, D].
    """
    count, patches = masks.shape
    covered = _non_empty(masks)
    sizes = covered.sum(dim=1)
    dropped = torch.minimum((sizes * drop).round().long(), sizes - 1)
    # Drop the patches with the lowest random numbers. 2.0 ranks patches outside the mask last.
    noise = torch.rand(count, views, patches, generator=generator, device=generator.device).to(masks.device)
    noise = noise.masked_fill(~covered[:, None], 2.0)
    rank = noise.argsort(dim=-1, stable=True).argsort(dim=-1)
    kept = covered[:, None] & (rank >= dropped[:, None, None])
    return pool(region, kept.flatten(0, 1)).unflatten(0, (count, views))


def _non_empty(masks: torch.Tensor) -> torch.Tensor:
    return masks | ~masks.any(dim=1, keepdim=True)

"""Pooling: one feature for a region, the mean of the patch features under its mask."""

import torch


def pool(region: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The mean of an image's patch features under each mask (arXiv 2603.05729, section 3).

    An empty mask stands for the whole image: it falls back to all patches.

    Args:
        region: Features of the n patches, float32 [n, D].
        masks: m masks over the patches, bool [m, n], on any device.

    Returns:
        float32 [m, D], where `region` is.
    """
    weights = _non_empty(masks).to(region)
    return (weights @ region) / weights.sum(dim=1, keepdim=True)


def pool_views(
    region: torch.Tensor, masks: torch.Tensor, views: int, drop: float, generator: torch.Generator
) -> torch.Tensor:
    """Means as `pool`, each with other patches left out at random: patch dropout (section 3), drawn beforehand.

    Of a mask's c patches round(drop * c) are dropped, never all of them.

    Args:
        region: Features of the n patches, float32 [n, D].
        masks: m masks over the patches, bool [m, n].
        views: Means for each mask.
        drop: Share of a mask's patches to drop, at least 0 and below 1.
        generator: Source of all randomness; from the same state it gives the same views.

    Returns:
        float32 [m, views, D].
    """
    count, patches = masks.shape
    covered = _non_empty(masks)
    sizes = covered.sum(dim=1)
    dropped = torch.minimum((sizes * drop).round().long(), sizes - 1)
    # The patches with the lowest random numbers are dropped; a patch outside the mask never is among them.
    noise = torch.rand(count, views, patches, generator=generator, device=generator.device).to(masks.device)
    noise = noise.masked_fill(~covered[:, None], 2.0)
    rank = noise.argsort(dim=-1, stable=True).argsort(dim=-1)
    kept = covered[:, None] & (rank >= dropped[:, None, None])
    return pool(region, kept.flatten(0, 1)).unflatten(0, (count, views))


def _non_empty(masks: torch.Tensor) -> torch.Tensor:
    return masks | ~masks.any(dim=1, keepdim=True)

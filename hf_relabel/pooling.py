"""From patch features to region features: means over the patches under a mask (arXiv 2603.05729, section 3)."""

import torch


def pool(region: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The mean feature under each mask.

    Args:
        region: Patch features, float [n, D].
        masks: bool [m, n]; an empty mask stands for all patches.

    Returns:
        float [m, D].
    """
    return _means(region, _or_all(masks))


def pool_views(
    region: torch.Tensor, masks: torch.Tensor, views: int, drop: float, generator: torch.Generator
) -> torch.Tensor:
    """Means with patches dropped at random, never all of a mask's: what patch dropout trains on.

    Args:
        region: Patch features, float [n, D].
        masks: bool [m, n]; an empty mask stands for all patches.
        views: Means to draw for each mask.
        drop: Probability that a patch is dropped, in [0, 1).
        generator: Source of the random numbers.

    Returns:
        float [m, views, D].
    """
    masks = _or_all(masks)
    chance = torch.rand(len(masks), views, masks.shape[1], generator=generator)
    # The patch with the highest draw stays whatever happens, so a view always has one.
    last = torch.where(masks[:, None], chance, -1.0).argmax(dim=2, keepdim=True)
    kept = masks[:, None] & (chance >= drop)
    kept.scatter_(2, last, True)
    return _means(region, kept.flatten(0, 1)).view(len(masks), views, region.shape[1])


def _or_all(masks: torch.Tensor) -> torch.Tensor:
    return masks | ~masks.any(dim=1, keepdim=True)


def _means(region: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    weights = masks.to(region.dtype)
    return weights @ region / weights.sum(dim=1, keepdim=True)

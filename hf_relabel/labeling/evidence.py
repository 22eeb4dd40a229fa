"""Evidence that an image shows a class, from the labeler's logits for the image's regions."""

from itertools import pairwise

import numpy as np
import torch

from hf_relabel.labeling.calibration import LIMIT
from hf_relabel.labeling.regions import KINDS, ShardRegions

MAX_MARGIN = 1e6
"""Keeps the margin of a single output, which has no rest, finite."""

AGREEING_PROPOSALS, AGREEING_WINDOWS = 3, 2
"""Regions of each kind whose mean margin is part of the evidence `agreement`."""


def margins(logits: torch.Tensor, classes: int) -> torch.Tensor:
    """The log-odds of each class against all the rest, background included.

    They are not cut: of several regions that agree, one that is very sure may make up for one that is less so.

    Args:
        logits: float [n, classes] or, with background as the last column, [n, classes + 1].
        classes: Number of classes.

    Returns:
        float64 [n, classes].
    """
    logits = logits.double()
    log_posterior = torch.log_softmax(logits, dim=1)
    # 1 - p of the likeliest output is a sum over the others: a difference would be 0 from a margin of 37 on.
    top = logits.argmax(dim=1, keepdim=True)
    others = log_posterior.scatter(1, top, -torch.inf)
    rest = torch.log1p(-others.exp()).scatter(1, top, torch.logsumexp(others, dim=1, keepdim=True))
    return (log_posterior - rest)[:, :classes].clamp(-MAX_MARGIN, MAX_MARGIN)


def object_evidence(margin: np.ndarray, regions: ShardRegions) -> np.ndarray:
    """The highest margin among an image's MaskCut or file proposals, which stand for whole objects.

    It is right where objects stand out from their surroundings, however small they are.

    Args:
        margin: float [n, classes].
        regions: The n regions of a shard.

    Returns:
        float [images, classes]; -LIMIT for an image without such a proposal.
    """
    return _mean_of_best(margin, regions, np.isin(regions.kind, [KINDS.index("maskcut"), KINDS.index("file")]), 1)


def agreement_evidence(margin: np.ndarray, regions: ShardRegions) -> np.ndarray:
    """The agreement of an image's regions: the mean of its highest margins among proposals and among windows.

    Several regions of all sizes must see the class, so a single odd region is not enough. It is right on cluttered
    photos, where a proposal seldom fits one object. Arguments as in `object_evidence`.
    """
    proposals = _mean_of_best(margin, regions, ~regions.is_window, AGREEING_PROPOSALS)
    if not regions.is_window.any():
        return proposals
    return (2 * proposals + _mean_of_best(margin, regions, regions.is_window, AGREEING_WINDOWS)) / 3


EVIDENCE = {"object": object_evidence, "agreement": agreement_evidence}
"""The kinds of evidence that the labeler chooses from."""


def _mean_of_best(margin: np.ndarray, regions: ShardRegions, chosen: np.ndarray, count: int) -> np.ndarray:
    """The mean of each image's `count` highest margins (or of all, if it has fewer) by class, over chosen regions."""
    result = np.full((len(regions.label), margin.shape[1]), -LIMIT)
    indices = np.flatnonzero(chosen)
    bounds = np.searchsorted(regions.image[indices], np.arange(len(regions.label) + 1))
    for image, (start, end) in enumerate(pairwise(bounds)):
        rows = margin[indices[start:end]]
        if len(rows) > count:
            rows = np.partition(rows, len(rows) - count, axis=0)[-count:]
        if len(rows):
            result[image] = rows.mean(axis=0)
    return result

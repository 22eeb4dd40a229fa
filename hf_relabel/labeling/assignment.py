"""What each region trains as, without a teacher: a class, background, or nothing.

An image's given label belongs to at least one of its regions. Given the posterior of a classifier that has not seen the
image (`discriminant.py`),

1. the best proposal for the given label, and any proposal confident in it, train as the given label;
2. of the other proposals, those confident in another class train as that class (self-training: a dropped proposal is
   often another object); those that may show another class train as nothing, or the labeler would learn to take such
   objects for background; the rest train as background;
3. merged regions and windows that hardly overlap the regions of steps 1 and 2 that train as a class train as background
   unless they are confident in a class. Without them, a labeler that is later applied to such regions has never seen
   plain background, and names it with certainty.

The proposals of step 1 are those that stand for objects: MaskCut's or a file's. Images that have none use their merged
regions instead.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from hf_relabel.config import BootstrapConfig
from hf_relabel.labeling.regions import KINDS, ShardRegions

NOTHING = -1
"""Target of a region that does not train."""

BEST = "best region for the given label"
CONFIDENT = "confident in the given label"
OTHER_CLASS = "confident in another class"
UNSURE = "may show another class"
BACKGROUND = "no class is likely"
SURROUNDINGS = "hardly overlaps the regions of a class"
OVERLAPS = "overlaps a region of a class"
ABOVE_SHARE = "enough background in this image"
LIKELY = "likely a class, but not an object's own region"

MAX_OVERLAP = 0.1
"""Share of a region that may be covered by the regions of a class for it to train as their surroundings."""


@dataclass(frozen=True)
class Assignment:
    """What the n regions of a shard train as.

    Args:
        targets: Class, or the number of classes for background, or `NOTHING`; int64 [n].
        reasons: Why, one of the constants of this module for each region, str [n].
    """

    targets: np.ndarray
    reasons: np.ndarray


def assign(regions: ShardRegions, posterior: np.ndarray, classes: int, config: BootstrapConfig) -> Assignment:
    """Decide what each region of a shard trains as.

    Args:
        regions: The n regions of a shard.
        posterior: Probabilities, float [n, classes] or, with background as the last column, [n, classes + 1].
        classes: Number of classes.
        config: `confident`, `other_class`, `unsure` and `max_background` are read.
    """
    primary = is_primary(regions)
    targets = np.full(len(regions), NOTHING, np.int64)
    reasons = np.full(len(regions), OVERLAPS, object)
    of_given = posterior[np.arange(len(regions)), regions.given]
    others = posterior[:, :classes].copy()
    others[np.arange(len(regions)), regions.given] = 0

    best = np.zeros(len(regions), bool)
    best[np.flatnonzero(primary)[best_of_images(of_given[primary], regions.image[primary])]] = True
    confident = primary & (of_given >= config.confident)
    rest = primary & ~best & ~confident
    highest = others.max(axis=1, initial=0)
    other = rest & (highest >= config.other_class)
    unsure = rest & ~other & (highest >= config.unsure)
    background = rest & ~other & ~unsure
    for chosen, target, reason in (
        (background, classes, BACKGROUND),
        (unsure, NOTHING, UNSURE),
        (other, others.argmax(axis=1) if classes else 0, OTHER_CLASS),
        (confident, regions.given, CONFIDENT),
        (best, regions.given, BEST),
    ):
        targets[chosen] = np.broadcast_to(target, len(regions))[chosen]
        reasons[chosen] = reason

    covered = _covered(regions, primary & (targets >= 0) & (targets < classes))
    likely = posterior[:, :classes].max(axis=1, initial=0) >= config.other_class
    surroundings = ~primary & (covered < MAX_OVERLAP)
    reasons[surroundings & likely] = LIKELY
    surroundings &= ~likely
    within_share = _first_of_images(regions, surroundings, primary, config.max_background)
    reasons[surroundings & ~within_share] = ABOVE_SHARE
    reasons[within_share] = SURROUNDINGS
    targets[within_share] = classes
    return Assignment(targets, reasons)


def is_primary(regions: ShardRegions) -> np.ndarray:
    """Whether each region may train as a class, bool [n]: MaskCut's and a file's proposals, or else the merged ones."""
    stands_for_object = np.isin(regions.kind, [KINDS.index("maskcut"), KINDS.index("file")])
    has_object = np.bincount(regions.image[stands_for_object], minlength=len(regions.label)) > 0
    return stands_for_object | ((regions.kind == KINDS.index("merge")) & ~has_object[regions.image])


def best_of_images(probability: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Indices of the most probable region of each image; of equal ones the first.

    Args:
        probability: float [n].
        image: Image of each region, ascending, int64 [n].
    """
    order = np.lexsort((-probability, image))  # stable: by image, then from the most probable
    first = np.r_[True, np.diff(image[order]) > 0][: len(order)]
    return order[first]


def _covered(regions: ShardRegions, of_class: np.ndarray) -> np.ndarray:
    """Share of each region's patches that the regions `of_class`, bool [n], of its image cover; float [n]."""
    union = np.zeros((len(regions.label), regions.masks.shape[1]), bool)
    np.logical_or.at(union, regions.image[of_class], regions.masks[of_class])
    return (regions.masks & union[regions.image]).sum(axis=1) / np.maximum(regions.masks.sum(axis=1), 1)


def _first_of_images(regions: ShardRegions, chosen: np.ndarray, primary: np.ndarray, ratio: float) -> np.ndarray:
    """Of the chosen regions, bool [n], at most `ratio` times as many per image as it has primary ones; bool [n].

    They are drawn at random, by numbers that depend only on the image.
    """
    room = np.ceil(ratio * np.bincount(regions.image[primary], minlength=len(regions.label))).astype(np.int64)
    indices = np.flatnonzero(chosen)
    bounds = np.searchsorted(regions.image[indices], np.arange(len(regions.label) + 1))
    kept = np.zeros(len(chosen), bool)
    for number, sha256 in enumerate(regions.sha256):
        mine = indices[bounds[number] : bounds[number + 1]]
        if len(mine) > room[number]:
            seed = hashlib.sha256(f"background:{sha256}".encode()).digest()
            mine = np.random.default_rng(int.from_bytes(seed[:8], "big")).permutation(mine)[: room[number]]
        kept[mine] = True
    return kept

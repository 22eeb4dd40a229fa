"""Proposals by merging: patches grow together into regions, and the regions that last longest are proposed.

Every patch starts as a region of its own. Two regions that touch are closer the more similar their mean features and
the smaller they are:

    cost(a, b) = (1 - cosine(a, b)) * sqrt(n_a n_b / (n_a + n_b))

where n is the number of patches. This is Ward's linkage (Ward 1963) with the cosine distance instead of the squared
Euclidean one, and the square root of its size factor, which is less strict with large regions. In every round, all
pairs of regions that are each other's nearest neighbor merge together (reciprocal nearest neighbors, Murtagh 1983), so
an image takes about thirty rounds of array operations instead of a thousand single steps. The linkage is not reducible,
so the tree is not exactly that of merging one pair at a time.

Every region of the resulting tree is a candidate. A region is born at the height at which it forms and dies at the
height at which it merges into a larger one; the longer it persists, the more it stands out from its surroundings. There
is no threshold to choose, unlike MaskCut's tau. UniAP (S2-UniSeg, arXiv 2508.06995) proposes by merging, too.
"""

from dataclasses import dataclass

import numpy as np

MIN_PATCHES = 6
"""Size of the smallest region that is proposed, in patches."""

MAX_SHARE = 0.8
"""Size of the largest region that is proposed, as a share of the grid."""

MAX_IOU = 0.7
"""Largest intersection over union of two proposals; of two candidates above it, only the better one is proposed."""


@dataclass(frozen=True)
class MergeTree:
    """All regions of an image: its n patches, then the n - 1 regions formed by merging, in the order they were formed.

    The patches of a region are `order[start : start + size]`, so two regions are either nested or disjoint.

    Args:
        order: Patches in the order of the tree's leaves, int64 [n].
        start: Index in `order` of the first patch of each region, int64 [2n - 1].
        size: Number of patches of each region, int64 [2n - 1].
        birth: Height at which each region formed, float32 [2n - 1]; 0 for a patch.
        death: Height at which each region merged into a larger one, float32 [2n - 1]; for the root, its own birth.
    """

    order: np.ndarray
    start: np.ndarray
    size: np.ndarray
    birth: np.ndarray
    death: np.ndarray

    def mask(self, region: int) -> np.ndarray:
        """The patches of a region, bool [n]."""
        mask = np.zeros(len(self.order), bool)
        mask[self.order[self.start[region] : self.start[region] + self.size[region]]] = True
        return mask


def merge_masks(
    features: np.ndarray, grid: tuple[int, int], count: int, others: np.ndarray | None = None
) -> np.ndarray:
    """Propose the most persistent regions of an image.

    Args:
        features: Patch features in reading order, float [n, dim]; n = h * w.
        grid: Patches down and across, (h, w).
        count: Maximum number of regions to propose.
        others: Existing proposals, bool [m, h, w]; their near-duplicates are left out.

    Returns:
        bool [k, h, w] with k <= count, the most persistent first. Regions may be nested.

    Raises:
        ValueError: The number of features does not fit the grid.
    """
    tree = merge_tree(features, grid)
    patches = len(tree.order)
    persistence = tree.death - tree.birth
    usable = (tree.size >= MIN_PATCHES) & (tree.size <= MAX_SHARE * patches)
    if others is not None and len(others):
        usable &= ~_near_duplicates(tree, others.reshape(len(others), -1))
    candidates = np.flatnonzero(usable)
    ranked = candidates[np.argsort(-persistence[candidates], kind="stable")]
    kept = _without_duplicates(tree, ranked, count)
    masks = [tree.mask(region) for region in kept]
    return np.stack(masks).reshape(-1, *grid) if masks else np.zeros((0, *grid), bool)


def merge_tree(features: np.ndarray, grid: tuple[int, int]) -> MergeTree:
    """Merge the patches of an image until one region is left; arguments as in `merge_masks`."""
    patches = grid[0] * grid[1]
    if features.ndim != 2 or len(features) != patches:
        raise ValueError(f"merging: expected features [{grid[0]} * {grid[1]}, dim], got {list(features.shape)}")
    total = 2 * patches - 1
    size = np.ones(total, np.int64)
    birth, death = np.zeros(total, np.float32), np.zeros(total, np.float32)
    # For each remaining region, at its slot: sum of unit features, the length of that sum, number of patches, index in
    # the tree. A merged region takes the slot of its first part.
    sums = features.astype(np.float32)
    sums /= np.maximum(np.sqrt(np.einsum("nd,nd->n", sums, sums)), 1e-12)[:, None]
    index = np.arange(patches)
    length = np.ones(patches, np.float32)
    count = np.ones(patches, np.float32)
    low, high = _edges(grid)
    cost = _costs(sums, length, count, low, high)
    merges: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    formed = patches
    while len(low):
        first, second, at = _mutual_neighbors(low, high, cost, patches)
        new = formed + np.arange(len(first))
        one, two = index[first], index[second]
        # A merge can be cheaper than the merges that formed its parts; heights must not fall toward the root.
        height = np.maximum(cost[at], np.maximum(birth[one], birth[two]))
        birth[new], death[one], death[two] = height, height, height
        size[new] = size[one] + size[two]
        merges.append((new, one, two))
        formed += len(first)
        index[first] = new
        count[first] += count[second]
        sums[first] += sums[second]
        merged = sums[first]
        length[first] = np.sqrt(np.einsum("nd,nd->n", merged, merged))
        slot = np.arange(patches)
        slot[second] = first
        low, high, cost, changed = _contract(low, high, cost, slot, first)
        cost[changed] = _costs(sums, length, count, low[changed], high[changed])
    death[total - 1] = birth[total - 1]
    start = np.zeros(total, np.int64)
    for new, one, two in reversed(merges):
        start[one] = start[new]
        start[two] = start[new] + size[one]
    order = np.empty(patches, np.int64)
    order[start[:patches]] = np.arange(patches)
    return MergeTree(order, start, size, birth, death)


def _edges(grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of patches that share a side: two int64 [edges], the earlier patch of each pair in the first."""
    index = np.arange(grid[0] * grid[1]).reshape(grid)
    low = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
    high = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
    return low, high


def _costs(sums: np.ndarray, length: np.ndarray, count: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Cost of merging the regions at each pair of slots, float32 [edges]."""
    cosine = np.einsum("nd,nd->n", sums[low], sums[high]) / np.maximum(length[low] * length[high], 1e-12)
    a, b = count[low], count[high]
    return (1 - cosine) * np.sqrt(a * b / (a + b))


def _mutual_neighbors(
    low: np.ndarray, high: np.ndarray, cost: np.ndarray, slots: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the pairs of slots that are each other's nearest neighbor: their slots and their edges, int64 [pairs] each.

    Of two edges of equal cost the first counts as shorter, so there is always a pair.
    """
    falling = np.argsort(cost, kind="stable")[
        ::-1
    ]  # NumPy keeps the last value written to a repeated index: the shortest
    nearest = np.full(slots, -1)
    both = np.empty(2 * len(low), np.int64)
    both[0::2], both[1::2] = low[falling], high[falling]
    nearest[both] = np.repeat(falling, 2)
    at = np.flatnonzero((nearest[low] == nearest[high]) & (nearest[low] == np.arange(len(low))))
    return low[at], high[at], at


def _contract(
    low: np.ndarray, high: np.ndarray, cost: np.ndarray, slot: np.ndarray, merged: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Update the edges after a round of merges.

    Args:
        low: First slot of each edge, int64 [edges].
        high: Second slot of each edge, int64 [edges].
        cost: Cost of each edge, float32 [edges].
        slot: New slot of the region at each slot, int64 [slots].
        merged: Slots of the regions that this round formed.

    Returns:
        The remaining edges, each pair of regions once, as `low`, `high` and `cost`, and the indices of the edges whose
        cost must be computed again, int64.
    """
    low, high = slot[low], slot[high]
    low, high = np.minimum(low, high), np.maximum(low, high)
    key = low * len(slot) + high
    key[low == high] = -1
    _, at = np.unique(key, return_index=True)
    if len(at) and key[at[0]] < 0:
        at = at[1:]
    low, high = low[at], high[at]
    fresh = np.zeros(len(slot), bool)
    fresh[merged] = True
    return low, high, cost[at], np.flatnonzero(fresh[low] | fresh[high])


def _near_duplicates(tree: MergeTree, others: np.ndarray) -> np.ndarray:
    """Whether each region has an IoU above `MAX_IOU` with one of the masks, bool [m, n]: bool [2n - 1]."""
    sums = np.zeros((len(others), others.shape[1] + 1), np.int64)
    np.cumsum(others[:, tree.order], axis=1, out=sums[:, 1:])
    shared = sums[:, tree.start + tree.size] - sums[:, tree.start]  # [m, 2n - 1]
    union = sums[:, -1:] + tree.size - shared
    return (shared > MAX_IOU * union).any(axis=0)


def _without_duplicates(tree: MergeTree, ranked: np.ndarray, count: int) -> list[int]:
    """Keep the first `count` of the ranked regions, leaving out near-duplicates of better ones.

    The IoU of nested regions is the ratio of their sizes; other regions do not overlap.
    """
    start, end = tree.start[ranked], tree.start[ranked] + tree.size[ranked]
    left = np.ones(len(ranked), bool)
    kept: list[int] = []
    for index in range(len(ranked)):
        if len(kept) == count:
            break
        if not left[index]:
            continue
        kept.append(int(ranked[index]))
        shared = np.minimum(end, end[index]) - np.maximum(start, start[index])
        union = np.maximum(end, end[index]) - np.minimum(start, start[index])
        left &= ~(shared > MAX_IOU * union)
    return kept

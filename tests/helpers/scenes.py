"""Images as patch features: objects of known classes, distractors of unknown ones, and plain surroundings."""

from dataclasses import dataclass

import numpy as np
import torch
from jobs import ImageRegions

from hf_relabel.vision.merging import merge_masks
from hf_relabel.vision.pooling import pool
from hf_relabel.vision.windows import window_masks

GRID = (12, 12)


@dataclass(frozen=True)
class Scenes:
    """Generated images.

    Args:
        labels: Given label of each image.
        regions: Its regions: MaskCut's (its objects, distractors and, in some, a piece of background), merged, windows.
        shown: Class of each MaskCut region; -1 for a distractor or background.
        truth: Classes of each image.
    """

    labels: list[int]
    regions: list[ImageRegions]
    shown: list[list[int]]
    truth: list[set[int]]


def make_scenes(
    images: int,
    classes: int,
    *,
    extra: float = 0.5,
    distractors: float = 0.5,
    noise: float = 1.0,
    merged: int = 6,
    windows: int = 3,
    dim: int = 24,
    seed: int = 0,
) -> Scenes:
    """Generate images of one object of the given class and sometimes one of another.

    Args:
        images: Number of images.
        classes: Number of classes.
        extra: Chance of an object of a second class.
        distractors: Chance of an object that belongs to none of the classes.
        noise: Standard deviation of a patch's feature around that of what it shows.
        merged: Number of merged regions per image.
        windows: Windows per side.
        dim: Number of features.
        seed: Seed.
    """
    rng = np.random.default_rng(seed)
    looks = rng.normal(size=(classes, dim)) * 1.5
    unknown, textures = rng.normal(size=(4, dim)) * 1.5, rng.normal(size=(3, dim)) * 1.5
    scenes = Scenes([], [], [], [])
    for _ in range(images):
        present = rng.permutation(classes)[: 1 + int(rng.random() < extra)].tolist()
        objects = [(looks[name], name) for name in present]
        if rng.random() < distractors:
            objects.append((unknown[rng.integers(len(unknown))], -1))
        patches = textures[rng.integers(len(textures))] + noise * rng.normal(size=(*GRID, dim))
        masks, shown = [], []
        for quarter, at in zip(rng.permutation(4), rng.permutation(len(objects)), strict=False):
            look, name = objects[at]
            top, left = 6 * (quarter // 2) + rng.integers(3), 6 * (quarter % 2) + rng.integers(3)
            mask = np.zeros(GRID, bool)
            mask[top : top + 4, left : left + 4] = True
            patches[mask] = look + noise * rng.normal(size=(16, dim))
            masks.append(mask)
            shown.append(name)
        if rng.random() < 0.4:  # MaskCut often cuts out sky or grass
            mask = ~np.any(masks, axis=0)
            mask[6:] = False
            masks.append(mask)
            shown.append(-1)
        scenes.labels.append(present[0])
        scenes.regions.append(_regions(patches, masks, merged, windows))
        scenes.shown.append(shown)
        scenes.truth.append(set(present))
    return scenes


def _regions(patches: np.ndarray, masks: list[np.ndarray], merged: int, windows: int) -> ImageRegions:
    flat = patches.reshape(-1, patches.shape[-1]).astype(np.float32)
    found = [("maskcut", mask) for mask in masks]
    if merged:
        found += [("merge", mask) for mask in merge_masks(flat, GRID, merged, np.stack(masks))]
    everything = np.stack([np.ones(GRID, bool), *(mask for _, mask in found), *window_masks(windows, GRID)])
    pooled = pool(torch.from_numpy(flat), torch.from_numpy(everything).flatten(1)).numpy()
    proposals = [(kind, mask, pooled[1 + k : 2 + k]) for k, (kind, mask) in enumerate(found)]
    return ImageRegions(pooled[0], proposals, pooled[1 + len(found) :])

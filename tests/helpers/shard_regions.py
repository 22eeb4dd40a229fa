"""Regions made by hand, for tests of what the labeler does with them."""

import numpy as np

from hf_relabel.labeling.regions import KINDS, ShardRegions


def make_regions(images: list[list[tuple[str, list[int]]]], label: list[int], patches: int = 12, dim: int = 4):
    """Regions of images from the kind and the patches of each; features are zero."""
    image = np.array([k for k, regions in enumerate(images) for _ in regions], np.int64)
    kind = np.array([KINDS.index(kind) for regions in images for kind, _ in regions], np.int64)
    masks = np.zeros((len(image), patches), bool)
    for row, covered in enumerate(covered for regions in images for _, covered in regions):
        masks[row, covered] = True
    return ShardRegions(
        image_ids=[f"image-{number}.jpg" for number in range(len(images))],
        sha256=[f"{number:064x}" for number in range(len(images))],
        label=np.array(label, np.int64),
        is_read=np.ones(len(images), bool),
        grid=(1, patches),
        image=image,
        number=np.array([number for regions in images for number in range(len(regions))], np.int64),
        kind=kind,
        masks=masks,
        features=np.zeros((len(image), dim), np.float16),
    )

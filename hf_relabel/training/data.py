"""Training examples: augmented images with their targets, the same whatever the number of workers."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from hf_relabel.labelled_images import LabelledImages
from hf_relabel.training.augment import Augmentation
from hf_relabel.training.targets import Targets


class Examples(Dataset):
    """Image `rows[i]` and target i, of N.

    An item's number is `epoch * N + i`, so that chance depends on the epoch, the image and the seed alone.

    Args:
        images: Where the images come from.
        rows: Image of each target, N indices.
        targets: Gives the target of row i, for a crop.
        augmentation: What happens to an image.
        seed: Seed of the augmentation.
    """

    def __init__(
        self, images: LabelledImages, rows: np.ndarray, targets: Targets, augmentation: Augmentation, seed: int
    ):
        self._images = images
        self._rows = rows
        self._targets = targets
        self._augmentation = augmentation
        self._seed = seed

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, item = divmod(number, len(self._rows))
        rng = np.random.default_rng((self._seed, 1, epoch, item))
        pixels, box = self._augmentation(self._images.load(int(self._rows[item])), rng)
        return pixels, torch.from_numpy(self._targets(item, box))


class EpochSampler(Sampler):
    """Every image once an epoch, in an order of the epoch's own."""

    def __init__(self, count: int, seed: int):
        self._count = count
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self._seed, 2, self.epoch)).permutation(self._count)
        return iter((order + self.epoch * self._count).tolist())

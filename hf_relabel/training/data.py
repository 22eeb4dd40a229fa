"""Training examples: augmented images with their targets, the same whatever the number of workers."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hf_relabel.errors import ImageReadError
from hf_relabel.evaluation.datasets import LabeledImages
from hf_relabel.training.augment import Augmentation
from hf_relabel.training.targets import Targets

WORKER_TIMEOUT = 600
"""Seconds in which a worker must bring its next batch: one that is stuck ends the run instead of stopping it."""


def make_loader(dataset: Dataset, batch_size: int, workers: int, **settings: Any) -> DataLoader:
    """A loader whose workers are forks, as what reads the images cannot be sent to a process of another kind."""
    if workers:
        settings |= {"multiprocessing_context": "fork", "timeout": WORKER_TIMEOUT}
    return DataLoader(dataset, batch_size=batch_size, num_workers=workers, **settings)


def batches(loader: Iterable[Any]) -> Iterator[Any]:
    """The loader's batches; an image that a worker cannot read is named in one line, as without workers."""
    try:
        yield from loader
    except ImageReadError as error:
        # The message of a worker's error is its traceback, which ends with the exception's name and message.
        raise ImageReadError(str(error).strip().splitlines()[-1].split("ImageReadError: ")[-1]) from None


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
        self, images: LabeledImages, rows: np.ndarray, targets: Targets, augmentation: Augmentation, seed: int
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

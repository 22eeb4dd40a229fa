"""Augmented images with their targets; the number of workers does not change them."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hf_relabel.errors import ImageReadError
from hf_relabel.evaluation.datasets import LabeledImages
from hf_relabel.sources.loader import killed_workers, worker_context
from hf_relabel.training.augment import Augmentation
from hf_relabel.training.targets import Targets


def make_loader(dataset: Dataset, batch_size: int, workers: int, **settings: Any) -> DataLoader:
    """Make a loader; each worker process has a copy of the dataset, which must be one that can be pickled."""
    if workers:
        # No `timeout`: with one, PyTorch notices a worker that was killed only when it has passed.
        settings |= {"multiprocessing_context": worker_context(__name__)}
    return DataLoader(dataset, batch_size=batch_size, num_workers=workers, **settings)


def batches(loader: Iterable[Any]) -> Iterator[Any]:
    """Yield the loader's batches; errors are one line: an unreadable image, or a worker that was killed."""
    try:
        with killed_workers("--workers"):
            yield from loader
    except ImageReadError as error:
        # An error from a worker has a traceback as its message; the last line is the name and message of the original.
        raise ImageReadError(str(error).strip().splitlines()[-1].split("ImageReadError: ")[-1]) from None


class AugmentedImages(Dataset):
    """N augmented images with their targets: item i is image `rows[i]` with target i.

    Items are numbered `epoch * N + i`, so that the augmentation depends only on the epoch, the image and the seed.

    Args:
        images: The images.
        rows: Index of the image of each target, int [N].
        targets: Returns the target of row i for a crop.
        augmentation: Augments an image.
        seed: Random seed of the augmentation.
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
    """Yields each image once per epoch, in an order that depends on the epoch and the seed."""

    def __init__(self, count: int, seed: int):
        self._count = count
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self._seed, 2, self.epoch)).permutation(self._count)
        return iter((order + self.epoch * self._count).tolist())

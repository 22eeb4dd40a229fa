"""A function that needs a lock, as many libraries do inside: a forked child never gets a lock that was held."""

import os
import threading

import torch
from torch.utils.data import Dataset

LOCK = threading.Lock()


def locked(image) -> torch.Tensor:
    """A preprocessing step that must hold the lock."""
    with LOCK:
        return torch.zeros(3, 1, 1)


class LockedItems(Dataset):
    """Items that are computed while holding the lock."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return locked(index) + index


class KilledWorker(LockedItems):
    """Items whose worker process ends at the first of them, as when memory runs out."""

    def __getitem__(self, index: int) -> torch.Tensor:
        os._exit(9)

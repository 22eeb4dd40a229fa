"""Features of a frozen model, computed once and kept on disk: what `fit --freeze` trains the head on.

A frozen model computes the same features of the same pixels in every epoch. So each image gets a fixed number of views,
the whole image and then augmented ones, and epoch e trains on view e modulo their number. The features of all views
are computed before the first epoch, in parts that an interrupted run keeps, and read row by row: neither the number of
images nor that of epochs changes the memory that this takes.
"""

import hashlib
import math
import os
import shutil
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_relabel.errors import StageError
from hf_relabel.evaluation.datasets import LabeledImages
from hf_relabel.run.store import Fingerprint, atomic_open, make_folder, read_json, write_json
from hf_relabel.sources.loader import killed_workers
from hf_relabel.training.augment import Augmentation
from hf_relabel.training.data import batches, make_loader
from hf_relabel.training.models import head_parameters
from hf_relabel.training.targets import Targets

FEATURES = "features"
"""Folder of the features in the output folder; removed after the training."""

RECORD = "features.json"
"""File in the folder of the features with what they depend on."""

PART_ROWS = 8192
"""Rows of a part, which one process computes; an interrupted run loses less than that."""

MAX_OPEN = 128
"""Maximum number of parts that a process keeps open."""

BOX = 4
"""Values at the end of a row: the box of the view, as fractions of the image."""


class Head(nn.Module):
    """The head of a classifier on features, with the interface of the classifier.

    Args:
        dropout: The classifier's dropout before its head, if it has one.
        head: Its head.
    """

    def __init__(self, dropout: nn.Module, head: nn.Module):
        super().__init__()
        self.dropout = dropout
        self.head = head

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        """Compute logits, float32 [B, C], of features, float32 [B, ...]."""
        return SimpleNamespace(logits=self.head(self.dropout(pixel_values)))


class Trunk:
    """A classifier without its head: computes the input of the head, float32 [B, *shape], of images [B, 3, S, S].

    Attributes:
        head: The head as a model of its own, which shares its weights with the classifier.
        shape: Shape of the features of an image.
    """

    def __init__(self, model: PreTrainedModel, head: Head, shape: tuple[int, ...]):
        """See `of`."""
        self._model = model
        self.head = head
        self.shape = shape

    @classmethod
    def of(cls, model: PreTrainedModel, side: int) -> "Trunk | None":
        """Split a classifier into trunk and head.

        Args:
            model: The classifier.
            side: Side of the images in pixels.

        Returns:
            None if the logits are not those of one module applied to one tensor, as with the two heads of a distilled
            DeiT.
        """
        names = {name.partition(".")[0] for name in head_parameters(model)}
        if len(names) != 1:
            return None
        dropout = next((child for child in model.children() if isinstance(child, nn.Dropout)), nn.Identity())
        head = Head(dropout, getattr(model, names.pop()))
        pixels = torch.rand((2, 3, side, side), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            inputs, logits = _run(model.eval(), head.head, pixels)
            if len(inputs) != 1 or not torch.allclose(head(inputs[0]).logits, logits, rtol=1e-3, atol=1e-4):
                return None
        return cls(model, head, tuple(inputs[0].shape[1:]))

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute the features of images."""
        return _run(self._model, self.head.head, pixels)[0][0].float()

    @property
    def digest(self) -> str:
        """SHA-256 of the weights and buffers, without those of the head."""
        digest = hashlib.sha256()
        in_head = set(head_parameters(self._model))
        for name, tensor in self._model.state_dict().items():
            if name not in in_head:
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def _run(model: nn.Module, head: nn.Module, pixels: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """The inputs of a model's head, and the logits."""
    inputs: list[tuple[torch.Tensor, ...]] = []
    hook = head.register_forward_pre_hook(lambda _, values: inputs.append(values))
    try:
        logits = model(pixel_values=pixels).logits
    finally:
        hook.remove()
    return inputs[0], logits


class Views(Dataset):
    """Fixed views of N images: item v * N + i is view v of image `rows[i]`, as pixels and the box of the crop.

    View 0 is the whole image; the others are augmented, each in its own way.

    Args:
        images: The images.
        rows: Indices of the images, int [N].
        augmentation: Augments an image.
        count: Number of views.
        seed: Random seed of the augmentation.
    """

    def __init__(self, images: LabeledImages, rows: np.ndarray, augmentation: Augmentation, count: int, seed: int):
        self.images = images
        self.rows = rows
        self.count = count
        self.seed = seed
        self.augmented = augmentation
        self.whole = replace(augmentation, crop_scale=1.0, flip=False, operations=0)

    def __len__(self) -> int:
        return self.count * len(self.rows)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, torch.Tensor]:
        view, place = divmod(item, len(self.rows))
        rng = np.random.default_rng((self.seed, 4, view, place))
        augmentation = self.augmented if view else self.whole
        pixels, box = augmentation(self.images.load(int(self.rows[place])), rng)
        return pixels, torch.tensor(box, dtype=torch.float32)

    @property
    def inputs(self) -> dict[str, Any]:
        """What the views depend on, apart from the time when the images were read."""
        transform = self.whole.transform
        settings = self.augmented if self.count > 1 else self.whole
        return {
            "images": self.images.fingerprint,
            "rows": hashlib.sha256(self.rows.astype("<i8").tobytes()).hexdigest(),
            "views": self.count,
            "seed": self.seed if self.count > 1 else None,
            "side": transform.side,
            "mean": list(transform.mean),
            "std": list(transform.std),
            "augmentation": [settings.crop_scale, settings.flip, settings.operations, settings.magnitude],
        }


@dataclass
class StoredFeatures:
    """Features on disk, read by row; it can be pickled, for worker processes.

    Args:
        folder: Their folder.
        shape: Shape of the features of an image.
    """

    folder: Path
    shape: tuple[int, ...]
    _open: dict[int, BinaryIO] = field(default_factory=dict, repr=False)

    def __call__(self, row: int) -> torch.Tensor:
        """The features of a row, float32 [*shape]."""
        return self.read(row)[0]

    def read(self, row: int) -> tuple[torch.Tensor, np.ndarray]:
        """The features of a row, float32 [*shape], and its box, float32 [4].

        Raises:
            StageError: The file is damaged.
        """
        part, place = divmod(row, PART_ROWS)
        if part not in self._open:
            if len(self._open) >= MAX_OPEN:
                self.close()
            self._open[part] = open(_part(self.folder, part), "rb")  # noqa: SIM115, closed by `close`
            np.lib.format.read_magic(self._open[part])
            np.lib.format.read_array_header_1_0(self._open[part])
        file = self._open[part]
        width = 4 * (math.prod(self.shape) + BOX)
        # Not mapped into the memory: what was read would count as this process's own.
        content = os.pread(file.fileno(), width, file.tell() + place * width)
        if len(content) != width:
            raise StageError(f"{file.name}: is damaged; delete {self.folder} and run the same command again")
        values = np.frombuffer(bytearray(content), "<f4")
        return torch.from_numpy(values[:-BOX].reshape(self.shape)), values[-BOX:]

    def close(self) -> None:
        """Close the files, which the next read opens again."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


class FeatureItems(Dataset):
    """Stored features of N images with their targets, numbered like `data.AugmentedImages`.

    Args:
        features: Features of `views` views of the images.
        count: Number of images N.
        views: Number of views.
        targets: Returns the target of row i for a crop.
    """

    def __init__(self, features: StoredFeatures, count: int, views: int, targets: Targets):
        self._features = features
        self._count = count
        self._views = views
        self._targets = targets

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, item = divmod(number, self._count)
        features, box = self._features.read(epoch % self._views * self._count + item)
        left, top, right, bottom = map(float, box)
        return features, torch.from_numpy(self._targets(item, (left, top, right, bottom)))


def compute_features(
    trunk: Trunk, views: Views, folder: Path, accelerator: Accelerator, batch_size: int, workers: int
) -> StoredFeatures:
    """Compute the features of all views, or keep those that an interrupted run has computed.

    Args:
        trunk: The model, on the accelerator's device.
        views: The views of the images.
        folder: Where the features are kept.
        accelerator: Provides device, processes and precision. The processes share the parts.
        batch_size: Images per forward pass and process.
        workers: Processes that decode images.

    Raises:
        ImageReadError: An image cannot be read.
        OutputError: The disk is full.
    """
    inputs = {"trunk": trunk.digest, "precision": str(accelerator.mixed_precision), **views.inputs}
    if accelerator.is_main_process:
        _open_folder(folder, inputs)
    accelerator.wait_for_everyone()
    starts = range(0, len(views), PART_ROWS)[accelerator.process_index :: accelerator.num_processes]
    parts = [range(start, min(start + PART_ROWS, len(views))) for start in starts]
    parts = [part for part in parts if not _part(folder, part.start // PART_ROWS).exists()]
    cut = [[part[start : start + batch_size] for start in range(0, len(part), batch_size)] for part in parts]
    read = batches(make_loader(views, 1, workers, batch_sampler=list(chain(*cut))))
    header = {"descr": "<f4", "fortran_order": False}
    bar = tqdm(total=sum(map(len, parts)), desc="features", disable=not accelerator.is_local_main_process)
    with bar, killed_workers("--workers"):
        for part, batches_of_part in zip(parts, cut, strict=True):
            with atomic_open(_part(folder, part.start // PART_ROWS)) as file:
                width = math.prod(trunk.shape) + BOX
                np.lib.format.write_array_header_1_0(file, header | {"shape": (len(part), width)})
                for pixels, boxes in islice(read, len(batches_of_part)):
                    with torch.inference_mode(), accelerator.autocast():
                        found = trunk(pixels.to(accelerator.device)).flatten(1).cpu()
                    file.write(torch.cat([found, boxes], dim=1).numpy().astype("<f4").tobytes())
                    bar.update(len(pixels))
    accelerator.wait_for_everyone()
    return StoredFeatures(folder, trunk.shape)


def _open_folder(folder: Path, inputs: dict[str, Any]) -> None:
    """Create the folder, without features that depend on something else."""
    fingerprint = Fingerprint(inputs).digest
    record = read_json(folder / RECORD)
    if record is None or record.get("fingerprint") != fingerprint:
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)
        write_json(folder / RECORD, {"fingerprint": fingerprint, **inputs})


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.npy"

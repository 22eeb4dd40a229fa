"""Make ReLabel's label maps for a dataset with any classifier that `cell_logits` supports.

A map is a tensor [2, k, h, w]: the k highest logits at each cell of a grid over the whole image, and their classes, in
`<folder>/<image id without suffix>.pt`, as `labeling.label_maps` reads it. Several processes share the images; maps
that exist are kept, and `label_maps.json` records what they were made with.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from hf_relabel.errors import ImageReadError
from hf_relabel.evaluation.datasets import LabeledImages
from hf_relabel.labeling.label_map_folder import RECORD, check_folder, label_map_paths, write_label_map
from hf_relabel.run.store import write_json
from hf_relabel.sources.loader import killed_workers
from hf_relabel.training.cell_logits import cell_logits
from hf_relabel.training.data import batches, make_loader
from hf_relabel.training.models import ClassifierTransform, image_size_of

_STRIDE = 32
"""Of the last feature map of nearly all classifiers, in pixels."""


def map_size_of(model: Any) -> int:
    """The image size for label maps in pixels.

    A model that was trained on crops sees smaller objects in whole images, so convolutional ones get 9/7 of their size:
    EfficientNet-Lite0 names 200 ImageNet photos with top-1 0.90 at 288 px and 0.83 at its own 224. Transformers keep
    theirs.
    """
    size = image_size_of(model)
    is_convolutional = "patch_size" not in model.config.to_dict() or "conv" in model.config.model_type
    return max(_STRIDE, round(size * 9 / 7 / _STRIDE) * _STRIDE) if is_convolutional else size


@dataclass
class Made:
    """What one process made: maps, maps that existed, and unreadable images by reason."""

    written: int = 0
    kept: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)


def make_label_maps(
    model: Any,
    transform: ClassifierTransform,
    images: LabeledImages,
    columns: np.ndarray,
    folder: Path,
    accelerator: Accelerator,
    *,
    settings: dict[str, Any],
    top_k: int = 5,
    batch_size: int = 32,
    workers: int = 0,
    overwrite: bool = False,
) -> Made:
    """Write a label map for each image.

    Args:
        model: The classifier, in evaluation mode.
        transform: Its input transform, which must not crop.
        images: N images with C classes.
        columns: The classifier's output for each class of the images, int64 [C].
        folder: Folder of the maps.
        accelerator: Provides device and processes.
        settings: What the maps depend on; recorded, and compared with a folder that exists.
        top_k: Number of classes per cell.
        batch_size: Images per forward pass and process.
        workers: Processes that decode images.
        overwrite: Make maps that exist again.

    Raises:
        SourceError: Two images would have the same map.
        StageError: The folder has maps that were made with other settings.
    """
    paths = label_map_paths(images.image_ids, folder)
    _prepare(folder, settings, overwrite, accelerator)
    mine = range(accelerator.process_index, len(paths), accelerator.num_processes)
    todo = [index for index in mine if overwrite or not paths[index].is_file()]
    made = Made(kept=len(mine) - len(todo))
    model = model.to(accelerator.device)
    order = torch.from_numpy(columns).to(accelerator.device)
    dataset = _Squares(images, transform, todo)
    loader = make_loader(dataset, batch_size, workers, collate_fn=_collate)
    bar = tqdm(total=len(todo), desc="label maps", unit=" images", disable=not accelerator.is_main_process)
    with bar, killed_workers("--workers"):
        for indices, pixels, failures in batches(loader):
            made.unreadable.update(failures)
            if pixels is not None:
                with torch.inference_mode(), accelerator.autocast():
                    logits = cell_logits(model, pixels.to(accelerator.device))
                values, classes = logits[:, order].topk(min(top_k, len(columns)), dim=1)
                maps = torch.stack([values, classes.float()], dim=1).cpu()
                for index, label_map in zip(indices, maps, strict=True):
                    write_label_map(paths[index], label_map, len(columns))
                made.written += len(indices)
            bar.update(len(indices) + len(failures))
    accelerator.wait_for_everyone()
    return made


def _prepare(folder: Path, settings: dict[str, Any], overwrite: bool, accelerator: Accelerator) -> None:
    check_folder(folder, settings, overwrite)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD, settings)
    accelerator.wait_for_everyone()


class _Squares(Dataset):
    """Index, pixels and None, or the reason why an image cannot be read instead of the pixels."""

    def __init__(self, images: LabeledImages, transform: ClassifierTransform, indices: list[int]):
        self._images = images
        self._transform = transform
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, number: int) -> tuple[int, torch.Tensor | None, str | None]:
        index = self._indices[number]
        try:
            return index, self._transform(self._images.load(index)), None
        except ImageReadError as error:
            return index, None, str(error)


def _collate(
    items: list[tuple[int, torch.Tensor | None, str | None]],
) -> tuple[list[int], torch.Tensor | None, list[str]]:
    """Indices and pixels of the readable images, and the reasons of the others."""
    pixels = [item[1] for item in items if item[1] is not None]
    indices = [item[0] for item in items if item[1] is not None]
    return indices, torch.stack(pixels) if pixels else None, [item[2] for item in items if item[2] is not None]

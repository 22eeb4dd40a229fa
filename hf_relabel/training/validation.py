"""Validation during training: a held-out part of the images or a named split, measured after every epoch."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import Dataset

from hf_relabel.evaluation import metrics
from hf_relabel.evaluation.datasets import LabeledImages
from hf_relabel.training.data import batches, make_loader
from hf_relabel.training.models import ClassifierTransform
from hf_relabel.training.targets import WHOLE_IMAGE, Targets

SELECTED_BY = "val_map_over_images"
"""The metric by which the best epoch is chosen."""

MAX_HELD_OUT = 10_000
"""Maximum number of held-out images; more make an epoch slower and the metrics hardly more precise."""

_PRESENT = 0.5
"""Minimum target of a present class."""


@dataclass(frozen=True)
class ValidationSet:
    """Images that are not trained on.

    Args:
        images: The images.
        rows: Indices of the M images to validate on, int [M].
        targets: Targets of the whole images, float32 [M, C] in [0, 1].
    """

    images: LabeledImages
    rows: np.ndarray
    targets: np.ndarray

    @classmethod
    def of(cls, images: LabeledImages, rows: np.ndarray, targets: Targets, items: Sequence[int]) -> "ValidationSet":
        """Take the items `items` of the targets, whose images are `rows`."""
        vectors = [targets(int(item), WHOLE_IMAGE) for item in items]
        return cls(images, np.asarray([rows[item] for item in items]), np.stack(vectors))


def held_out(image_ids: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Choose the images to hold out: a share of them by the hash of their ids, so a new release keeps the choice.

    Args:
        image_ids: Ids of N images.
        share: Share to hold out, in [0, 1).
        seed: Random seed.

    Returns:
        bool [N]; all False if the share is less than one image or leaves none to train on.
    """
    chosen = np.zeros(len(image_ids), bool)
    count = min(round(share * len(image_ids)), MAX_HELD_OUT)
    if 0 < count < len(image_ids):
        keys = [hashlib.sha256(f"{seed}:{image_id}".encode()).digest() for image_id in image_ids]
        chosen[sorted(range(len(keys)), key=keys.__getitem__)[:count]] = True
    return chosen


class Validator:
    """Measures a model on a validation set; called by every process, which share the images.

    Args:
        data: The validation set.
        inputs: Returns the model's input for a place in the set; it can be pickled.
        accelerator: Provides device, processes and precision.
        batch_size: Images per forward pass and process.
        workers: Processes that decode images.
        multi_label: Whether classes are independent (a sigmoid each) or one distribution.
    """

    def __init__(
        self,
        data: ValidationSet,
        inputs: Callable[[int], torch.Tensor],
        accelerator: Accelerator,
        batch_size: int,
        workers: int,
        multi_label: bool,
    ):
        self.data = data
        self._accelerator = accelerator
        self._multi_label = multi_label
        mine = list(range(accelerator.process_index, len(data.rows), accelerator.num_processes))
        # A generator of its own: the loader would draw from the global one, on which dropout depends.
        self._loader = make_loader(
            _Inputs(inputs, mine), batch_size, workers, generator=torch.Generator().manual_seed(0)
        )

    @property
    def truth(self) -> np.ndarray:
        """The present classes, bool [M, C]."""
        return self.data.targets >= _PRESENT

    def __call__(self, model: nn.Module) -> tuple[dict[str, float], np.ndarray]:
        """Return the metrics, and the scores of all images, float32 [M, C]."""
        model.eval()
        found: list[tuple[int, np.ndarray]] = []
        for places, pixels in batches(self._loader):
            with torch.inference_mode(), self._accelerator.autocast():
                logits = model(pixel_values=pixels.to(self._accelerator.device)).logits.float()
            scores = (logits.sigmoid() if self._multi_label else logits.softmax(dim=1)).cpu().numpy()
            found += list(zip(places.tolist(), scores, strict=True))
        if self._accelerator.num_processes > 1:
            found = gather_object(found)
        scores = np.zeros(self.data.targets.shape, np.float32)
        for place, row in found:
            scores[place] = row
        return epoch_metrics(scores, self.truth), scores


def epoch_metrics(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Metrics of an epoch; `val_f1` is at `val_threshold`, the threshold with the highest pooled F1.

    Args:
        scores: float32 [M, C].
        truth: bool [M, C].
    """
    known = truth.any(axis=1)
    if not known.any():
        return {"val_map_over_images": 0.0, "val_map_over_classes": 0.0, "val_f1": 0.0, "val_threshold": 0.5}
    scores, truth = scores[known], truth[known]
    curve = metrics.threshold_curve(scores.ravel(), truth.ravel(), int(truth.sum()))
    return {
        "val_map_over_images": metrics.map_over_images(scores, truth),
        "val_map_over_classes": metrics.map_over_classes(scores, truth),
        "val_f1": float(curve.f1[curve.best]),
        "val_threshold": float(curve.thresholds[curve.best]),
    }


def per_class(
    scores: np.ndarray, truth: np.ndarray, class_names: Sequence[str], threshold: float
) -> dict[str, dict[str, Any]]:
    """Number of images, average precision and F1 at a threshold of each class; null for a class without images."""
    table: dict[str, dict[str, Any]] = {}
    precisions = metrics.average_precision(scores.T, truth.T)
    for index, name in enumerate(class_names):
        claimed, true = scores[:, index] >= threshold, truth[:, index]
        f1 = metrics.prf(float((claimed & true).sum()), float(claimed.sum()), float(true.sum())).f1
        ap = float(precisions[index])
        is_known = not math.isnan(ap)
        table[name] = {"images": int(true.sum()), "ap": ap if is_known else None, "f1": float(f1) if is_known else None}
    return table


class Best:
    """The weights of the best epoch so far, on the CPU; part of the checkpoints."""

    def __init__(self) -> None:
        self.epoch = 0
        self.value = -math.inf
        self.weights: dict[str, torch.Tensor] = {}

    def offer(self, epoch: int, value: float, model: nn.Module) -> None:
        """Keep the model's weights if the value is higher than every earlier one."""
        if value > self.value:
            self.epoch, self.value = epoch, value
            self.weights = {key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {"epoch": self.epoch, "value": self.value, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.epoch, self.value, self.weights = state["epoch"], state["value"], state["weights"]


@dataclass(frozen=True)
class ValidationPixels:
    """The input of a whole model: the pixels of an image by its place in a validation set."""

    data: ValidationSet
    transform: ClassifierTransform

    def __call__(self, place: int) -> torch.Tensor:
        return self.transform(self.data.images.load(int(self.data.rows[place])))


class _Inputs(Dataset):
    """Pairs (place in the validation set, input of the model)."""

    def __init__(self, inputs: Callable[[int], torch.Tensor], places: list[int]):
        self._inputs = inputs
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> tuple[int, torch.Tensor]:
        place = self._places[number]
        return place, self._inputs(place)

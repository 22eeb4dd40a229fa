"""The labeler: a small head that classifies a region from its pooled backbone features.

Its folder contains `model.safetensors` and `config.json`: the head's shape, the class names, and the identity of the
backbone that it was trained on. It refuses features from any other backbone.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import nn

from hf_relabel.config import TrainConfig
from hf_relabel.errors import LabelerError, StageError
from hf_relabel.run.store import atomic_open, read_record, write_record

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


@dataclass(frozen=True)
class HeadShape:
    """Architecture of a head; arXiv 2603.05729, section 3, uses two hidden layers of 1024 without normalization.

    Args:
        head: `mlp` or `linear`.
        features: Number of input features.
        classes: Number of classes.
        hidden: Width of the hidden layers.
        layers: Number of hidden layers.
        dropout: Dropout after each hidden layer, in [0, 1).
    """

    head: str
    features: int
    classes: int
    hidden: int
    layers: int
    dropout: float

    @classmethod
    def of(cls, config: TrainConfig, features: int, classes: int) -> "HeadShape":
        """Return the shape that a training configuration describes."""
        return cls(config.head, features, classes, config.hidden, config.layers, config.dropout)


class Head(nn.Module):
    """Classifier of pooled region features: float [N, features] -> logits, float [N, classes].

    Two buffers first center and scale the features. They start as the identity, the paper's setting; with
    `train.standardize` they are the mean and standard deviation over the training regions.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, shape: HeadShape):
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", torch.zeros(shape.features))
        self.register_buffer("std", torch.ones(shape.features))
        widths = [shape.features] + [shape.hidden] * (shape.layers if shape.head == "mlp" else 0)
        blocks: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            blocks += [nn.Linear(inputs, outputs), nn.GELU(), nn.Dropout(shape.dropout)]
        self.layers = nn.Sequential(*blocks, nn.Linear(widths[-1], shape.classes))

    def standardize(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Set the mean and standard deviation of the features, each float [features]."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp(min=1e-6))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the logits, float [N, classes], of features, float [N, features]."""
        return self.layers((features - self.mean) / self.std)


@dataclass(frozen=True)
class Labeler:
    """A trained head with the names of its classes and the backbone of its features.

    Args:
        head: The trained head.
        class_names: Names of the classes, in the order of the logits.
        backbone: Identity of the backbone.
        training: Fingerprint and metrics of the training run.
        weights_sha256: Hash of the stored weights; empty for a labeler that was not loaded.
    """

    head: Head
    class_names: list[str]
    backbone: dict[str, Any]
    training: dict[str, Any]
    weights_sha256: str = ""

    def save(self, folder: Path) -> None:
        """Write the weights and then `config.json`, each atomically; a folder with `config.json` is complete."""
        state = {key: value.detach().cpu().contiguous() for key, value in self.head.state_dict().items()}
        content = to_bytes(state)
        with atomic_open(folder / WEIGHTS) as file:
            file.write(content)
        write_record(
            folder / CONFIG,
            {
                "head": asdict(self.head.shape),
                "class_names": self.class_names,
                "backbone": self.backbone,
                "training": self.training,
                "weights_sha256": hashlib.sha256(content).hexdigest(),
            },
        )

    @classmethod
    def load(cls, folder: Path, backbone: dict[str, Any], class_names: list[str] | None = None) -> "Labeler":
        """Load a labeler for the features of `backbone`.

        Args:
            folder: The labeler's folder.
            backbone: Identity of the backbone that the features come from.
            class_names: The classes it must have, in this order; None for any.

        Raises:
            LabelerError: The folder is incomplete or damaged, or the labeler was trained on another backbone or for
                other classes.
        """
        config = read_config(folder)
        if config is None:
            raise LabelerError(f"{folder}: no labeler ({CONFIG} is missing); run `hf-relabel train` first")
        if config["backbone"] != backbone:
            raise LabelerError(
                f"{folder}: this labeler was trained on {describe_backbone(config['backbone'])}, "
                f"but the proposals come from {describe_backbone(backbone)}; train a labeler for these"
            )
        if class_names is not None and config["class_names"] != class_names:
            raise LabelerError(
                f"{folder}: this labeler was trained for other classes "
                f"({_differing(config['class_names'], class_names)}); {AGAIN}"
            )
        head = Head(HeadShape(**config["head"]))
        try:
            content = (folder / WEIGHTS).read_bytes()
            if hashlib.sha256(content).hexdigest() != config["weights_sha256"]:
                raise LabelerError(f"{folder / WEIGHTS}: damaged (its hash is not the one in {CONFIG}); {AGAIN}")
            head.load_state_dict(from_bytes(content))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise LabelerError(f"{folder / WEIGHTS}: damaged ({reason}); {AGAIN}") from error
        names, training = config["class_names"], config["training"]
        return cls(head.eval(), names, config["backbone"], training, config["weights_sha256"])


AGAIN = "run `hf-relabel train` again"


def read_config(folder: Path) -> dict[str, Any] | None:
    """Read a labeler's `config.json`; None if there is none.

    Raises:
        LabelerError: It is damaged.
    """
    try:
        return read_record(folder / CONFIG)
    except StageError as error:
        raise LabelerError(str(error)) from error


def is_complete(folder: Path, digest: str) -> bool:
    """Whether a folder has a labeler with this digest, and its weights are the ones that were written."""
    try:
        config = read_config(folder)
        if config is None or config["training"]["digest"] != digest:
            return False
        content = (folder / WEIGHTS).read_bytes()
    except (LabelerError, OSError):
        return False
    return hashlib.sha256(content).hexdigest() == config["weights_sha256"]


def _differing(ours: list[str], theirs: list[str]) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} classes, the source has {len(theirs)}"
    place = next(place for place, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    return f"class {place} is {ours[place]!r}, in the source it is {theirs[place]!r}"


def describe_backbone(identity: dict[str, Any]) -> str:
    """Summarize a backbone's identity for error messages."""
    feature = json.dumps(identity.get("region_feature"), sort_keys=True)
    revision = identity.get("revision") or (identity.get("weights_sha256") or "")[:12] or "no revision"
    return f"{identity.get('model')} ({revision}, {identity.get('image_size')} px, {feature})"

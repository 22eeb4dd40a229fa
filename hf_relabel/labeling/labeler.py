"""The labeler: a small head that names a region from its pooled backbone features.

Its folder holds `model.safetensors` and `config.json`: the head's shape, the class names, and the identity of the
backbone whose features it was trained on. It refuses to work on any other backbone's features.
"""

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from hf_relabel.config import TrainConfig
from hf_relabel.errors import LabelerError
from hf_relabel.run.store import atomic_open, read_json, write_json

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


@dataclass(frozen=True)
class HeadShape:
    """What is needed to build a head: arXiv 2603.05729, section 3, uses two hidden layers of 1024 and no norm."""

    head: str
    features: int
    classes: int
    hidden: int
    layers: int
    dropout: float

    @classmethod
    def of(cls, config: TrainConfig, features: int, classes: int) -> "HeadShape":
        """The shape that a training configuration asks for."""
        return cls(config.head, features, classes, config.hidden, config.layers, config.dropout)


class Head(nn.Module):
    """Classifies pooled region features: float [N, features] -> logits float [N, classes].

    Features are first centred and scaled by two buffers. They start as the identity, the paper's setting; with
    `train.standardise` they hold the mean and deviation of the training regions.
    """

    def __init__(self, shape: HeadShape):
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", torch.zeros(shape.features))
        self.register_buffer("deviation", torch.ones(shape.features))
        widths = [shape.features] + [shape.hidden] * (shape.layers if shape.head == "mlp" else 0)
        blocks: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            blocks += [nn.Linear(inputs, outputs), nn.GELU(), nn.Dropout(shape.dropout)]
        self.layers = nn.Sequential(*blocks, nn.Linear(widths[-1], shape.classes))

    def standardise(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Set the centre and scale of the features, each float [features]."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp(min=1e-6))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers((features - self.mean) / self.deviation)


@dataclass(frozen=True)
class Labeler:
    """A trained head, the names of its classes, and the backbone it belongs to."""

    head: Head
    class_names: list[str]
    backbone: dict[str, Any]
    training: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write weights and then `config.json`, each atomically: a folder with `config.json` is complete."""
        state = {key: value.detach().cpu().contiguous() for key, value in self.head.state_dict().items()}
        with atomic_open(folder / WEIGHTS) as file:
            file.write(to_bytes(state))
        write_json(
            folder / CONFIG,
            {
                "head": asdict(self.head.shape),
                "class_names": self.class_names,
                "backbone": self.backbone,
                "training": self.training,
            },
        )

    @classmethod
    def load(cls, folder: Path, backbone: dict[str, Any]) -> "Labeler":
        """Read a labeler for the features of `backbone`.

        Raises:
            LabelerError: The folder is incomplete or damaged, or the labeler belongs to another backbone.
        """
        config = read_json(folder / CONFIG)
        if config is None:
            raise LabelerError(f"{folder}: no labeler here ({CONFIG} is missing); run `hf-relabel train` first")
        if config["backbone"] != backbone:
            raise LabelerError(
                f"{folder}: this labeler was trained on {describe_backbone(config['backbone'])}, "
                f"the proposals come from {describe_backbone(backbone)}; train one for them"
            )
        head = Head(HeadShape(**config["head"]))
        try:
            head.load_state_dict(load_file(folder / WEIGHTS))
        except (FileNotFoundError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise LabelerError(f"{folder / WEIGHTS}: damaged ({reason}); train the labeler again") from error
        return cls(head.eval(), config["class_names"], config["backbone"], config["training"])


def describe_backbone(identity: dict[str, Any]) -> str:
    """A backbone's identity in a few words, for messages."""
    feature = json.dumps(identity.get("region_feature"), sort_keys=True)
    revision = identity.get("revision") or (identity.get("weights_sha256") or "")[:12] or "no revision"
    return f"{identity.get('model')} ({revision}, {identity.get('image_size')} px, {feature})"

"""The labeler: small heads that classify a region from its pooled backbone features.

One head is trained on all images and serves new images. The others leave out one fold of the images each, and label
the images of that fold (cross-fitting): a labeler is too sure of images that it was trained on, and its scores could
not be calibrated on them.

Its folder contains `model.safetensors` and `config.json`: the heads' shape, the class names, the identity of the
backbone that it was trained on, and the calibration of its scores. It refuses features from any other backbone.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import nn
from torch.nn import functional

from hf_relabel.config import REGION_BACKBONE
from hf_relabel.config.checks import regular_file
from hf_relabel.errors import LabelerError, StageError
from hf_relabel.labeling.calibration import Calibration
from hf_relabel.labeling.discriminant import folds_of
from hf_relabel.labeling.labeler_record import find_damage
from hf_relabel.run.store import atomic_open, read_record, write_record

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


@dataclass(frozen=True)
class HeadShape:
    """Architecture of the heads; arXiv 2603.05729, section 3, uses two hidden layers of 1024 without normalization.

    Args:
        head: `discriminant`, `linear` or `mlp`; the first two differ only in how they are fitted.
        features: Number of input features.
        outputs: Number of logits: the classes and, with a background class, one more.
        hidden: Width of the hidden layers.
        layers: Number of hidden layers.
        dropout: Dropout after each hidden layer, in [0, 1).
    """

    head: str
    features: int
    outputs: int
    hidden: int
    layers: int
    dropout: float

    @property
    def widths(self) -> list[int]:
        """Number of values before and after each linear layer."""
        return [self.features, *([self.hidden] * (self.layers if self.head == "mlp" else 0)), self.outputs]


class Heads(nn.Module):
    """Several classifiers of pooled region features that have the same shape and are evaluated together.

    Two buffers first center and scale the features. They start as the identity, the paper's setting; with
    `train.standardize` they are the mean and standard deviation over the training regions.

    Attributes:
        shape: Their shape.
        count: Number of heads: the one for new images, and one per fold.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, shape: HeadShape, count: int = 1):
        super().__init__()
        self.shape = shape
        self.count = count
        self.register_buffer("mean", torch.zeros(shape.features))
        self.register_buffer("std", torch.ones(shape.features))
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in pairwise(shape.widths):
            layers = [nn.Linear(inputs, outputs) for _ in range(count)]
            self.weights.append(nn.Parameter(torch.stack([layer.weight.detach().T for layer in layers])))
            self.biases.append(nn.Parameter(torch.stack([layer.bias.detach() for layer in layers])))

    def standardize(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Set the mean and standard deviation of the features, each float [features]."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp(min=1e-6))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the logits of every head, float [count, N, outputs], for features, float [N, features]."""
        hidden = ((features - self.mean) / self.std).expand(self.count, -1, -1)
        last = len(self.weights) - 1
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias[:, None], hidden, weight)
            if place < last:
                hidden = functional.dropout(functional.gelu(hidden), self.shape.dropout, self.training)
        return hidden

    def one(self, features: torch.Tensor, head: int) -> torch.Tensor:
        """Compute the logits of one head, float [N, outputs]; without dropout."""
        hidden = (features - self.mean) / self.std
        last = len(self.weights) - 1
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = hidden @ weight[head] + bias[head]
            if place < last:
                hidden = functional.gelu(hidden)
        return hidden

    def of_folds(self, features: torch.Tensor, folds: torch.Tensor) -> torch.Tensor:
        """Compute logits by the head that left out a region's fold, float [N, outputs].

        Args:
            features: float [N, features].
            folds: Fold of each region's image, int64 [N]; -1 for an image that no head was trained on.
        """
        return self.select(features, folds + 1)

    def select(self, features: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
        """Compute the logits of each region, float [N, features], by its head, int64 [N]: float [N, outputs]."""
        logits = features.new_zeros(len(features), self.shape.outputs)
        for head in heads.unique().tolist():
            mine = heads == head
            logits[mine] = self.one(features[mine], head)
        return logits


@dataclass(frozen=True)
class ImageScores:
    """How the evidence of an image's regions becomes the scores of its labels.

    Args:
        evidence: Kind of evidence, a key of `evidence.EVIDENCE`.
        calibration: From evidence to probability; None if it could not be measured.
        adds: Whether labels are added at all; not if the estimated gain is too small.
        estimates: What was expected of the added labels on the training images, for reports.
    """

    evidence: str
    calibration: Calibration | None
    adds: bool
    estimates: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values, which `from_json` reads."""
        calibration = self.calibration.to_json() if self.calibration else None
        return {
            "evidence": self.evidence,
            "calibration": calibration,
            "adds": self.adds,
            "estimates": self.estimates,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ImageScores":
        """Restore what `to_json` described."""
        calibration = Calibration.from_json(value["calibration"]) if value["calibration"] else None
        return cls(value["evidence"], calibration, value["adds"], value["estimates"])


@dataclass(frozen=True)
class Labeler:
    """Trained heads, with the names of their classes, the backbone of their features and their calibration.

    Args:
        heads: The trained heads; the first is for new images.
        class_names: Names of the classes, in the order of the logits; a further logit is the background's.
        scores: How regions' logits become the scores of an image's labels.
        seed: Seed of the run, which determines the fold of each image.
        backbone: Identity of the backbone.
        training: Fingerprint and metrics of the training run.
        weights_sha256: Hash of the stored weights; empty for a labeler that was not loaded.
    """

    heads: Heads
    class_names: list[str]
    scores: ImageScores
    seed: int
    backbone: dict[str, Any]
    training: dict[str, Any]
    weights_sha256: str = ""

    def save(self, folder: Path) -> None:
        """Write the weights and then `config.json`, each atomically; a folder with `config.json` is complete."""
        state = {key: value.detach().cpu().contiguous() for key, value in self.heads.state_dict().items()}
        content = to_bytes(state)
        with atomic_open(folder / WEIGHTS) as file:
            file.write(content)
        write_record(
            folder / CONFIG,
            {
                "head": asdict(self.heads.shape),
                "heads": self.heads.count,
                "scores": self.scores.to_json(),
                "seed": self.seed,
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
        shape = HeadShape(**config["head"])
        try:
            content = regular_file(folder / WEIGHTS).read_bytes()
            if hashlib.sha256(content).hexdigest() != config["weights_sha256"]:
                raise LabelerError(f"{folder / WEIGHTS}: damaged (its hash is not the one in {CONFIG}); {AGAIN}")
            # Before anything is allocated: a few bytes of sizes could ask for more memory than there is.
            expected = config["heads"] * sum(a * b for a, b in pairwise(shape.widths))
            if expected * _BYTES_PER_WEIGHT > len(content):
                raise LabelerError(f"{folder / WEIGHTS}: has fewer weights than the heads in {CONFIG}; {AGAIN}")
            heads = Heads(shape, config["heads"])
            heads.load_state_dict(from_bytes(content))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise LabelerError(f"{folder / WEIGHTS}: damaged ({reason}); {AGAIN}") from error
        return cls(
            heads.eval(),
            config["class_names"],
            ImageScores.from_json(config["scores"]),
            config["seed"],
            config["backbone"],
            config["training"],
            config["weights_sha256"],
        )

    @property
    def folds(self) -> int:
        """Number of folds; 0 if there is only the head for all images."""
        return self.heads.count - 1

    def folds_of(self, sha256: Sequence[str | None]) -> np.ndarray:
        """The fold of each training image, given by its file's hash, int64 [images]; -1 without folds."""
        if not self.folds:
            return np.full(len(sha256), -1)
        return folds_of(sha256, self.folds, self.seed)


_BYTES_PER_WEIGHT = 4

AGAIN = "run `hf-relabel train` again"


def read_config(folder: Path) -> dict[str, Any] | None:
    """Read a labeler's `config.json`; None if there is none.

    Raises:
        LabelerError: It is damaged.
    """
    try:
        record = read_record(folder / CONFIG)
    except StageError as error:
        raise LabelerError(str(error)) from error
    if record is not None and (damage := find_damage(record)) is not None:
        raise LabelerError(f"{folder / CONFIG}: not a labeler's record ({damage}); give another one, or {AGAIN}")
    return record


def is_complete(folder: Path, digest: str) -> bool:
    """Whether a folder has a labeler with this digest, and its weights are the ones that were written."""
    try:
        config = read_config(folder)
        if config is None or config["training"]["digest"] != digest:
            return False
        content = regular_file(folder / WEIGHTS).read_bytes()
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
    text = f"{identity.get('model')} ({revision}, {identity.get('image_size')} px, {feature})"
    region = identity.get(REGION_BACKBONE)
    return text if region is None else f"{text} with regions from {describe_backbone(region)}"

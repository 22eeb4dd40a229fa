"""The frozen self-supervised ViT: transformers' DINO, DINOv2 (with or without registers) and DINOv3.

One forward pass gives both what MaskCut cuts and what is pooled for the labeler, caught by hooks on the blocks.
Keys, queries and values are the outputs of the attention's linear projections, all heads side by side, before any
rotary embedding, as in the code of the paper (arXiv 2603.05729) and of CutLER.
"""

import threading
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from hf_relabel.config import BackboneConfig, FeatureConfig
from hf_relabel.errors import BackboneError
from hf_relabel.vision import onednn, pretrained

PROJECTIONS = {"query": ("q_proj", "query"), "key": ("k_proj", "key"), "value": ("v_proj", "value")}
"""What transformers has called the projections of an attention layer, in its newer and older modules."""


@dataclass(frozen=True)
class Preprocess:
    """Makes of a picture what the backbone takes. Pillow and torch alone, so it is the same on every machine.

    Args:
        side: Side of the square in pixels.
        mean: Mean of each channel, for values in [0, 1].
        std: Standard deviation of each channel.
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """An RGB picture of any shape, stretched to the square with Lanczos and normalised: float32 [3, S, S]."""
        square = image.resize((self.side, self.side), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


@dataclass(frozen=True)
class PatchFeatures:
    """Features of the patches of a batch, in reading order, without class and register tokens; float32.

    Args:
        proposal: What MaskCut cuts, [B, n, C].
        region: What is pooled under a mask, [B, n, D].
    """

    proposal: torch.Tensor
    region: torch.Tensor


class Backbone:
    """A frozen ViT on a device; call it with float32 [B, 3, S, S] to get `PatchFeatures`.

    On a CPU each image is computed alone, by one thread of the given pool, so that an image's features do not depend
    on its company, on the batch size or on the number of processes. On a GPU a batch is one forward pass.

    Attributes:
        identity: What the features depend on: model, revision, weights, architecture, sizes, precision, features.
        preprocess: From a picture to a tensor; it can be pickled and leaves the model behind.
        patch_size: Side of a patch in pixels.
        grid: Patches (down, across).
        region_dim: Length of a region feature.
    """

    def __init__(
        self,
        model: nn.Module,
        config: BackboneConfig,
        preprocess: Preprocess,
        weights: dict[str, Any],
        device: torch.device,
        pool: Executor | None,
    ):
        """See `load`; `weights` is the part of the identity that says which weights the model has."""
        self.patch_size = patch_size_of(config, model.config)
        self.grid = (config.image_size // self.patch_size,) * 2
        self.preprocess = preprocess
        self.region_dim = int(model.config.hidden_size)
        self.identity = {
            **weights,
            "architecture": type(model).__name__,
            "image_size": config.image_size,
            "patch_size": self.patch_size,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "dtype": config.dtype,
            "proposal_feature": asdict(config.proposal_feature),
            "region_feature": asdict(config.region_feature),
        }
        self._device = device
        self._dtype = getattr(torch, config.dtype)
        self._pool = pool
        self._prefix = 1 + int(getattr(model.config, "num_register_tokens", 0))
        # Only DINO v1's class has to be asked for it; the others always fit their positions to the picture.
        self._options = {"interpolate_pos_encoding": True} if type(model).__name__ == "ViTModel" else {}
        self._caught = threading.local()  # of each thread, since several may run the model at once
        self._features = {"proposal": config.proposal_feature, "region": config.region_feature}
        blocks = _blocks(model)
        places = {name: block_of(name, feature, len(blocks)) for name, feature in self._features.items()}
        del blocks[max(places.values()) + 1 :]  # no feature depends on what comes after
        if self._dtype == torch.float32 and onednn.is_faster(device):
            onednn.convert(model)
        for name, place in places.items():
            self._hook(name, blocks[place])
        self._normalise = model.norm if hasattr(model, "norm") else model.layernorm
        self._model = model.to(device)

    @classmethod
    def load(cls, config: BackboneConfig, device: torch.device, pool: Executor | None = None) -> "Backbone":
        """Load a model from the Hub or a local folder.

        Args:
            config: Which model, at which size and precision, and which of its features.
            device: Where it computes.
            pool: Threads that share a batch's images on a CPU; without them one image comes after the other.

        Raises:
            BackboneError: The model is gated, missing, of another architecture, or does not fit the configuration.
        """
        settings = pretrained.read_settings(config)
        # Refused here, not after gigabytes of weights have come.
        patch_size_of(config, settings)
        for name in ("proposal", "region"):
            block_of(name, getattr(config, f"{name}_feature"), settings.num_hidden_layers)
        preprocess = Preprocess(config.image_size, *pretrained.read_statistics(config, settings))
        model = pretrained.read_model(config, settings, getattr(torch, config.dtype))
        return cls(model, config, preprocess, pretrained.identify(config, settings), device, pool)

    def __call__(self, pixels: torch.Tensor) -> PatchFeatures:
        """Features of a batch of preprocessed pictures, float32 [B, 3, S, S]."""
        # First the copy, which does not wait where the pixels are page-locked; a cast on the way would be made here.
        pixels = pixels.to(self._device, non_blocking=True).to(self._dtype)
        if self._device.type != "cpu":
            return PatchFeatures(*self._forward(pixels))
        images = pixels.split(1)
        results = list(self._pool.map(self._alone, images) if self._pool else map(self._alone, images))
        return PatchFeatures(*(torch.cat(parts) for parts in zip(*results, strict=True)))

    def _alone(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One image on a CPU, in one thread: a sum's last bits depend on how many share it."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._forward(pixels)
        finally:
            torch.set_num_threads(threads)

    @torch.inference_mode()
    def _forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self._caught.outputs = {}
        self._model(pixel_values=pixels, **self._options)
        caught, self._caught.outputs = self._caught.outputs, {}
        return self._patches(caught, "proposal"), self._patches(caught, "region")

    def _patches(self, caught: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        """A caught activation [B, prefix + n, C] as patch features float32 [B, n, C]."""
        feature, activation = self._features[name], caught[name]
        if feature.kind == "token" and feature.norm:
            activation = self._normalise(activation)
        return activation[:, self._prefix :].float()

    def _hook(self, name: str, block: nn.Module) -> None:
        """Catch a feature where it leaves its block, in the thread that runs the model."""
        kind = self._features[name].kind
        module = block if kind == "token" else _projection(block, kind)

        def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._caught.outputs[name] = output[0] if isinstance(output, tuple) else output

        module.register_forward_hook(catch)


def patch_size_of(config: BackboneConfig, settings: Any) -> int:
    """The side of the model's patches in pixels, of which the image size is a multiple.

    Raises:
        BackboneError: It is not, or the patches are not square.
    """
    stored = settings.patch_size
    sides = set(stored) if isinstance(stored, list | tuple) else {stored}
    if len(sides) != 1:
        raise BackboneError(f"backbone.model: the patches of {config.model} are not square but {list(stored)} pixels")
    side = int(sides.pop())
    if config.image_size % side:
        below = config.image_size // side * side
        nearest = f"{below} and {below + side}" if below else str(side)
        raise BackboneError(
            f"backbone.image_size: {config.model} needs a multiple of its patch size {side}, got {config.image_size}; "
            f"nearest: {nearest}"
        )
    return side


def block_of(name: str, feature: FeatureConfig, count: int) -> int:
    """The block of the `proposal` or `region` feature, counted from 0, in a model of `count` blocks.

    Raises:
        BackboneError: There is no such block.
    """
    if not -count <= feature.block < count:
        raise BackboneError(
            f"backbone.{name}_feature.block: the model has blocks 0 to {count - 1} (or -{count} to -1), "
            f"got {feature.block}"
        )
    return feature.block % count


def _blocks(model: nn.Module) -> nn.ModuleList:
    """The model's transformer blocks: the one list as long as its configuration says."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return module
    raise BackboneError(f"backbone.model: this transformers version lays out {type(model).__name__} in an unknown way")


def _projection(block: nn.Module, kind: str) -> nn.Module:
    for name, module in block.named_modules():
        if name.rpartition(".")[2] in PROJECTIONS[kind] and isinstance(module, nn.Linear):
            return module
    raise BackboneError(f"backbone.model: this transformers version has no {kind} projection in {type(block).__name__}")

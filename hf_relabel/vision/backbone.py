"""The frozen self-supervised model: transformers' DINO, DINOv2 (with or without registers) and DINOv3, ViT or ConvNeXt.

One forward pass produces both the features that MaskCut segments and the features that are pooled for the labeler;
forward hooks on the blocks capture them. Keys, queries and values are the outputs of the attention's linear projections
with all heads concatenated, before any rotary embedding, as in the code of the paper (arXiv 2603.05729) and of CutLER.
A ConvNeXt's blocks are its stages; their maps are resized to one grid.
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
from hf_relabel.vision.families import resolve_backbone

PROJECTIONS = {"query": ("q_proj", "query"), "key": ("k_proj", "key"), "value": ("v_proj", "value")}
"""Names of an attention layer's projections in newer and older transformers modules."""

TESTED_TRANSFORMERS = "4.56 to 5.23"
"""Versions of transformers whose modules have been tested."""


@dataclass(frozen=True)
class Preprocess:
    """Convert an image to a model's input, with Pillow and torch only so that every machine computes the same.

    Args:
        side: Side of the square in pixels.
        mean: Mean of each channel, for values in [0, 1].
        std: Standard deviation of each channel.
        filter: Pillow's filter for resizing.
    """

    side: int
    mean: tuple[float, ...] = pretrained.IMAGENET_MEAN
    std: tuple[float, ...] = pretrained.IMAGENET_STD
    filter: Image.Resampling = Image.Resampling.LANCZOS

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Resize an RGB image of any shape to the square (no crop) and normalize it: float32 [3, S, S]."""
        square = image.resize((self.side, self.side), self.filter)
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


@dataclass(frozen=True)
class PatchFeatures:
    """Patch features of a batch in row-major order, without class and register tokens; float32.

    Args:
        proposal: Input of MaskCut, [B, n, C].
        region: Features that are pooled under each mask, [B, n, D].
        merging: Input of the proposals by merging, [B, n, E], if it is not `region`.
    """

    proposal: torch.Tensor
    region: torch.Tensor
    merging: torch.Tensor | None = None


class Backbone:
    """A frozen ViT on a device; call it with float32 [B, 3, S, S] to get `PatchFeatures`.

    On a CPU, one thread of the given pool computes each image separately, so that an image's features do not depend on
    the other images in the batch, the batch size or the number of processes. On a GPU, a batch is one forward pass.

    Attributes:
        identity: Everything the features depend on: model, revision, weights, architecture, sizes, precision, features.
        preprocess: Converts an image to a tensor; it can be pickled without the model.
        patch_size: Side of a patch in pixels.
        grid: Number of patches (rows, columns).
        region_dim: Number of channels of a region feature.
    """

    def __init__(
        self,
        model: nn.Module,
        config: BackboneConfig,
        preprocess: Preprocess,
        identity: dict[str, Any],
        device: torch.device,
        pool: Executor | None,
    ):
        """See `load`; `config` is resolved."""
        settings: Any = model.config
        widths = pretrained.widths_of(settings)
        self.patch_size = pretrained.patch_size_of(config, settings)
        self.grid = (preprocess.side // self.patch_size,) * 2
        self.preprocess = preprocess
        self.identity = identity
        self._device = device
        self._dtype = getattr(torch, config.dtype)
        self._pool = pool
        self._prefix = 1 + int(getattr(settings, "num_register_tokens", 0))
        # Only DINO v1's class needs this option; the others always interpolate their position embeddings.
        self._options = {"interpolate_pos_encoding": True} if type(model).__name__ == "ViTModel" else {}
        self._captured = threading.local()  # per thread, because several threads may run the model at the same time
        self._features = {"proposal": config.proposal_feature, "region": config.region_feature}
        blocks = _blocks(model)
        indices = {name: block_of(name, feature, len(blocks)) for name, feature in self._features.items()}
        self.region_dim = widths[indices["region"]]
        if settings.model_type == pretrained.CONVNEXT:
            # The final norm is the last stage's only.
            self._normed = {name for name, index in indices.items() if index == len(blocks) - 1}
        else:
            self._normed = set(indices)
            del blocks[max(indices.values()) + 1 :]  # no feature depends on the later blocks
        if self._dtype == torch.float32 and onednn.is_faster(device):
            onednn.convert(model)
        for name, index in indices.items():
            self._hook(name, blocks[index])
        norms = (getattr(model, name, None) for name in ("norm", "layernorm", "layer_norm"))
        self._norm: nn.Module = next(norm for norm in norms if norm is not None)
        self._model = model.to(device)

    @classmethod
    def load(cls, config: BackboneConfig, device: torch.device, pool: Executor | None = None) -> "Backbone":
        """Load a model from the Hub or a local folder.

        Args:
            config: The model, its image size and precision, and the features to return.
            device: Device of the forward pass.
            pool: Threads that share a batch's images on a CPU; without it they are computed one after another.

        Raises:
            BackboneError: The model is gated or missing, its architecture is not supported, or the configuration does
                not match it.
        """
        config, settings = check_settings(config)
        assert config.image_size is not None
        preprocess = Preprocess(config.image_size, *pretrained.read_statistics(config, settings))
        model = pretrained.read_model(config, settings, getattr(torch, config.dtype))
        with pretrained.as_backbone_error(config):  # sizes that do not fit together show only in a forward pass
            backbone = cls(model, config, preprocess, _identify(config, settings), device, pool)
            features = backbone(torch.zeros(1, 3, preprocess.side, preprocess.side))
        found, patches = features.region.shape[1], backbone.grid[0] * backbone.grid[1]
        if (features.proposal.shape[1], found) != (patches, patches):
            raise BackboneError(
                f"backbone.model: {config.model} computes {found} patches of an image, but its config.json means "
                f"{patches}; use a complete checkpoint of this architecture"
            )
        return backbone

    def __call__(self, pixels: torch.Tensor) -> PatchFeatures:
        """Compute the features of a batch of preprocessed images, float32 [B, 3, S, S]."""
        # Copy before casting: the copy of page-locked pixels is asynchronous, and a combined cast would run on the CPU.
        pixels = pixels.to(self._device, non_blocking=True).to(self._dtype)
        if self._device.type != "cpu":
            return PatchFeatures(*self._forward(pixels))
        images = pixels.split(1)
        results = list(self._pool.map(self._forward_one, images) if self._pool else map(self._forward_one, images))
        return PatchFeatures(*(torch.cat(parts) for parts in zip(*results, strict=True)))

    def _forward_one(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute one image on a CPU with one thread: the last bits of a sum depend on the number of threads."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._forward(pixels)
        finally:
            torch.set_num_threads(threads)

    @torch.inference_mode()
    def _forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self._captured.outputs = {}
        self._model(pixel_values=pixels, **self._options)
        captured, self._captured.outputs = self._captured.outputs, {}
        return self._patches(captured, "proposal"), self._patches(captured, "region")

    def _patches(self, captured: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        """Convert an activation, [B, prefix + n, C] or a map [B, C, h, w], to patch features, float32 [B, n, C]."""
        feature, activation = self._features[name], captured[name]
        is_map = activation.ndim == 4
        if is_map:
            activation = self._on_grid(activation).flatten(2).transpose(1, 2)
        if feature.kind == "token" and feature.norm and name in self._normed:
            activation = self._norm(activation)
        return activation[:, 0 if is_map else self._prefix :].float().contiguous()

    def _on_grid(self, maps: torch.Tensor) -> torch.Tensor:
        """Resize the maps of a stage, [B, C, h, w], to the grid: means of finer ones, bilinear from coarser ones."""
        if maps.shape[2] > self.grid[0]:
            return nn.functional.avg_pool2d(maps, maps.shape[2] // self.grid[0])
        if maps.shape[2] < self.grid[0]:
            return nn.functional.interpolate(maps, size=self.grid, mode="bilinear", align_corners=False)
        return maps

    def _hook(self, name: str, block: nn.Module) -> None:
        """Register a forward hook that captures a feature for the thread that runs the model."""
        kind = self._features[name].kind
        module = block if kind == "token" else _projection(block, kind)

        def capture(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._captured.outputs[name] = output[0] if isinstance(output, tuple) else output

        module.register_forward_hook(capture)


def check_settings(config: BackboneConfig) -> tuple[BackboneConfig, Any]:
    """Read the model's settings and check that they match the configuration, before weights are downloaded.

    Returns:
        The configuration with every value that depends on the model, and the model's settings.

    Raises:
        BackboneError: The model cannot be found, is not supported, or does not match the configuration.
    """
    settings = pretrained.read_settings(config)
    config = resolve_backbone(config, settings)
    check_image_size(config, pretrained.size_step_of(config, settings))
    for name in ("proposal", "region"):
        feature = getattr(config, f"{name}_feature")
        block_of(name, feature, len(pretrained.widths_of(settings)))
        if settings.model_type == pretrained.CONVNEXT and feature.kind != "token":
            raise BackboneError(
                f"backbone.{name}_feature.kind: {config.model} has no {feature.kind}, because a ConvNeXt has no "
                "attention; set it to token"
            )
    return config, settings


def identify_backbone(config: BackboneConfig) -> dict[str, Any]:
    """Everything that the features depend on; the weights of a local folder are hashed, and no model is built.

    Raises:
        BackboneError: The model cannot be found, is not supported, or does not match the configuration.
    """
    return _identify(*check_settings(config))


def _identify(config: BackboneConfig, settings: Any) -> dict[str, Any]:
    mean, std = pretrained.read_statistics(config, settings)
    return {
        **pretrained.identify(config, settings),
        "architecture": pretrained.ARCHITECTURES[settings.model_type],
        "model_type": settings.model_type,
        "hidden_size": pretrained.widths_of(settings)[-1],
        "layers": len(pretrained.widths_of(settings)),
        "image_size": config.image_size,
        "patch_size": pretrained.patch_size_of(config, settings),
        "mean": list(mean),
        "std": list(std),
        "dtype": config.dtype,
        "proposal_feature": asdict(config.proposal_feature),
        "region_feature": asdict(config.region_feature),
    }


def check_image_size(config: BackboneConfig, patch: int) -> None:
    """Raise BackboneError if the image size is not a multiple of the patches' side (a ConvNeXt's stride) in pixels."""
    size = config.image_size
    assert size is not None
    if size % patch:
        below = size // patch * patch
        nearest = f"{below} and {below + patch}" if below else str(patch)
        raise BackboneError(
            f"backbone.image_size: {config.model} needs a multiple of its patch size {patch}, got {size}; "
            f"nearest: {nearest}"
        )


def block_of(name: str, feature: FeatureConfig, count: int) -> int:
    """Return the index, from 0, of the `proposal` or `region` feature's block in a model of `count` blocks.

    Raises:
        BackboneError: The model has no such block.
    """
    assert feature.block is not None
    if not -count <= feature.block < count:
        raise BackboneError(
            f"backbone.{name}_feature.block: the model has blocks 0 to {count - 1} (or -{count} to -1), "
            f"got {feature.block}"
        )
    return feature.block % count


def _blocks(model: nn.Module) -> nn.ModuleList:
    """Find the model's blocks (or stages): the outermost module list with the configured number of them."""
    settings: Any = model.config
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == len(pretrained.widths_of(settings)):
            return module
    raise BackboneError(
        f"backbone.model: cannot find the transformer blocks of {type(model).__name__} in this transformers version; "
        f"install one from {TESTED_TRANSFORMERS}"
    )


def _projection(block: nn.Module, kind: str) -> nn.Module:
    for name, module in block.named_modules():
        if name.rpartition(".")[2] in PROJECTIONS[kind] and isinstance(module, nn.Linear):
            return module
    raise BackboneError(
        f"backbone.model: cannot find the {kind} projection of {type(block).__name__} in this transformers version; "
        f"install one from {TESTED_TRANSFORMERS}"
    )

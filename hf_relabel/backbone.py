"""The frozen self-supervised ViT: transformers' DINO, DINOv2 (with or without registers) and DINOv3.

One forward pass gives both what MaskCut cuts and what is pooled for the labeler, caught by hooks on the blocks.
Keys, queries and values are the outputs of the attention's linear projections, all heads side by side, before any
rotary embedding, as in the code of the paper (arXiv 2603.05729) and of CutLER.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import constants
from PIL import Image
from torch import nn

from hf_relabel.config import BackboneConfig, FeatureConfig
from hf_relabel.errors import BackboneError

SUPPORTED = ("DINOv3ViTModel", "Dinov2Model", "Dinov2WithRegistersModel", "ViTModel")
UNGATED = "facebook/dinov2-with-registers-large"

PROJECTIONS = {"query": ("q_proj", "query"), "key": ("k_proj", "key"), "value": ("v_proj", "value")}
"""What transformers has called the projections of an attention layer, in its newer and older modules."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")


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
        provenance: dict[str, Any],
        device: torch.device,
        pool: Executor | None,
    ):
        self.patch_size = _one_number(model.config.patch_size)
        if config.image_size % self.patch_size:
            below = config.image_size // self.patch_size * self.patch_size
            raise BackboneError(
                f"backbone.image_size: {config.model} needs a multiple of its patch size {self.patch_size}, "
                f"got {config.image_size}; the nearest are {below or self.patch_size} and {below + self.patch_size}"
            )
        self.grid = (config.image_size // self.patch_size,) * 2
        self.preprocess = preprocess
        self.region_dim = int(model.config.hidden_size)
        self.identity = {
            **provenance,
            "architecture": type(model).__name__,
            "image_size": config.image_size,
            "patch_size": self.patch_size,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "dtype": config.dtype,
            "proposal_feature": asdict(config.proposal_feature),
            "region_feature": asdict(config.region_feature),
        }
        self._dtype = getattr(torch, config.dtype)
        self._model = model.eval().requires_grad_(False).to(device=device, dtype=self._dtype)
        self._device = device
        self._pool = pool
        self._prefix = 1 + int(getattr(model.config, "num_register_tokens", 0))
        # Only DINO v1's class has to be asked for it; the others always fit their positions to the picture.
        self._options = {"interpolate_pos_encoding": True} if type(model).__name__ == "ViTModel" else {}
        self._caught = threading.local()  # of each thread, since several may run the model at once
        self._normalise = _final_norm(model)
        self._features = {"proposal": config.proposal_feature, "region": config.region_feature}
        blocks = _blocks(model)
        for name, feature in self._features.items():
            self._hook(name, feature, blocks)

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
        import transformers

        folder = Path(config.model)
        if folder.is_dir() and not (folder / "config.json").is_file():
            raise BackboneError(f"backbone.model: {folder} has no config.json; name a folder made by save_pretrained")
        try:
            settings = transformers.AutoConfig.from_pretrained(config.model, revision=config.revision)
            _refuse_other_architectures(config.model, settings)
            # The pooler of ViTModel is not part of what we read, and DINO v1's files do not hold one.
            options = {"add_pooling_layer": False} if settings.model_type == "vit" else {}
            model = transformers.AutoModel.from_pretrained(config.model, revision=config.revision, **options)
            statistics = _statistics(config)
        except (OSError, ValueError) as error:  # what transformers makes of every failure to find or read a model
            raise BackboneError(_access_message(config, error)) from error
        provenance: dict[str, Any] = {"model": config.model, "revision": getattr(settings, "_commit_hash", None)}
        if folder.is_dir():
            provenance = {"model": folder.resolve().name, "revision": None, "weights_sha256": _weights_sha256(folder)}
        return cls(model, config, Preprocess(config.image_size, *statistics), provenance, device, pool)

    def __call__(self, pixels: torch.Tensor) -> PatchFeatures:
        """Features of a batch of preprocessed pictures, float32 [B, 3, S, S]."""
        pixels = pixels.to(device=self._device, dtype=self._dtype)
        if self._device.type != "cpu":
            return PatchFeatures(*self._forward(pixels))
        images = pixels.split(1)
        results = list(self._pool.map(self._forward, images) if self._pool else map(self._forward, images))
        return PatchFeatures(*(torch.cat(parts) for parts in zip(*results, strict=True)))

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

    def _hook(self, name: str, feature: FeatureConfig, blocks: nn.ModuleList) -> None:
        count = len(blocks)
        if not -count <= feature.block < count:
            raise BackboneError(
                f"backbone.{name}_feature.block: the model has blocks 0 to {count - 1} (or -{count} to -1), "
                f"got {feature.block}"
            )
        block = blocks[feature.block]
        module = block if feature.kind == "token" else _projection(block, feature.kind)

        def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._caught.outputs[name] = output[0] if isinstance(output, tuple) else output

        module.register_forward_hook(catch)


def _blocks(model: nn.Module) -> nn.ModuleList:
    """The model's transformer blocks: the one list as long as its configuration says."""
    for _, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return module
    raise BackboneError(f"backbone.model: this transformers version lays out {type(model).__name__} in an unknown way")


def _projection(block: nn.Module, kind: str) -> nn.Module:
    for name, module in block.named_modules():
        if name.rpartition(".")[2] in PROJECTIONS[kind] and isinstance(module, nn.Linear):
            return module
    raise BackboneError(f"backbone.model: this transformers version has no {kind} projection in {type(block).__name__}")


def _final_norm(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    return model.norm if hasattr(model, "norm") else model.layernorm


def _one_number(size: Any) -> int:
    return int(size[0] if isinstance(size, list | tuple) else size)


def _refuse_other_architectures(name: str, settings: Any) -> None:
    import transformers

    mapped = transformers.models.auto.modeling_auto.MODEL_MAPPING_NAMES.get(settings.model_type)
    if mapped not in SUPPORTED:
        raise BackboneError(
            f"backbone.model: {name} is a {settings.model_type!r} model; supported are {', '.join(SUPPORTED)}"
        )


def _statistics(config: BackboneConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation from the model's preprocessor_config.json; ImageNet's where it has none.

    The file is read by ourselves: the image processor of DINOv3 cannot be built without torchvision.
    """
    from transformers.utils import cached_file

    path = cached_file(
        config.model,
        "preprocessor_config.json",
        revision=config.revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    stored = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    return tuple(stored.get("image_mean") or IMAGENET_MEAN), tuple(stored.get("image_std") or IMAGENET_STD)


def _weights_sha256(folder: Path) -> str:
    """One hash over the weight files of a folder, so that its identity does not depend on where it lies."""
    digest = hashlib.sha256()
    for path in sorted(file for pattern in WEIGHT_FILES for file in folder.glob(pattern)):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _access_message(config: BackboneConfig, error: Exception) -> str:
    """One line on why a model could not be had and what to do; the error's own text stays out of it."""
    name = config.model
    if Path(name).is_dir():
        return f"backbone.model: {name} does not hold a readable model ({_first_line(error)})"
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        return f"backbone.model: no folder {name}; name a folder made by save_pretrained, or a Hub id"
    page = f"https://huggingface.co/{name}"
    ungated = f"or use the ungated {UNGATED}" if name != UNGATED else "or name a local folder"
    causes = _names_of_causes(error)
    if "GatedRepoError" in causes or "gated repo" in str(error).lower():
        return f"backbone.model: {name} is gated: ask for access at {page}, then `hf auth login`; {ungated}"
    if "RevisionNotFoundError" in causes:
        return f"backbone.model: {name} has no revision {config.revision!r}; see {page}"
    if causes & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectionError"}:
        where = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
        return f"backbone.model: {name} is not in the local cache and {where}; connect, or name a local folder"
    if "RepositoryNotFoundError" in causes or "not a valid model identifier" in str(error):
        return (
            f"backbone.model: no model {name} on the Hub, or it is private: check the name at {page}, "
            f"`hf auth login` if it is yours; {ungated}"
        )
    return f"backbone.model: {name} cannot be loaded ({_first_line(error)}); see {page}, {ungated}"


def _names_of_causes(error: BaseException | None) -> set[str]:
    names: set[str] = set()
    while error is not None:
        names |= {kind.__name__ for kind in type(error).__mro__}
        error = error.__cause__ or error.__context__
    return names


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]

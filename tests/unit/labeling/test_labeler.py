import json

import pytest
import torch
from jobs import BACKBONE
from safetensors.torch import load_file

from hf_relabel.config import TrainConfig
from hf_relabel.errors import LabelerError
from hf_relabel.labeling.labeler import Head, HeadShape, Labeler

TRAINING = {"digest": "d", "inputs": {}}


def make(config: TrainConfig = TrainConfig(hidden=8)) -> Labeler:
    torch.manual_seed(0)
    head = Head(HeadShape.of(config, 6, 3)).eval()
    return Labeler(head, ["a", "b", "c"], BACKBONE, TRAINING)


def test_default_head_is_that_of_the_paper():
    head = Head(HeadShape.of(TrainConfig(), 1024, 1000))
    kinds = [type(layer).__name__ for layer in head.layers]
    assert kinds == ["Linear", "GELU", "Dropout", "Linear", "GELU", "Dropout", "Linear"]
    assert [layer.out_features for layer in head.layers if hasattr(layer, "out_features")] == [1024, 1024, 1000]
    assert head.layers[2].p == 0.1


def test_linear_head_has_one_layer():
    head = Head(HeadShape.of(TrainConfig(head="linear"), 6, 3))
    assert [type(layer).__name__ for layer in head.layers] == ["Linear"]


def test_standardize_centers_and_scales():
    head = Head(HeadShape.of(TrainConfig(head="linear"), 2, 3))
    head.standardize(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0]))
    expected = head.layers(torch.tensor([[1.0, 0.0]]))
    assert torch.allclose(head(torch.tensor([[3.0, 2.0]])), expected)


def test_a_loaded_labeler_gives_the_same_logits(tmp_path):
    labeler = make()
    labeler.save(tmp_path)
    again = Labeler.load(tmp_path, BACKBONE)
    features = torch.randn(5, 6)
    assert torch.equal(labeler.head(features), again.head(features))
    assert again.class_names == ["a", "b", "c"]
    assert not again.head.training
    assert json.loads((tmp_path / "config.json").read_text())["backbone"] == BACKBONE
    assert load_file(tmp_path / "model.safetensors")


def test_features_from_another_backbone_are_refused(tmp_path):
    make().save(tmp_path)
    with pytest.raises(LabelerError) as error:
        Labeler.load(tmp_path, BACKBONE | {"model": "other/backbone"})
    assert "test/backbone" in str(error.value)
    assert "other/backbone" in str(error.value)


def test_another_feature_of_the_same_backbone_is_refused(tmp_path):
    make().save(tmp_path)
    with pytest.raises(LabelerError, match='"kind": "key"'):
        Labeler.load(tmp_path, BACKBONE | {"region_feature": {"kind": "key"}})


def test_missing_and_damaged_labelers(tmp_path):
    with pytest.raises(LabelerError, match="run `hf-relabel train` first"):
        Labeler.load(tmp_path, BACKBONE)
    make().save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(LabelerError, match=r"model\.safetensors: damaged"):
        Labeler.load(tmp_path, BACKBONE)

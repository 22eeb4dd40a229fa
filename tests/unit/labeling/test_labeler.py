import json

import numpy as np
import pytest
import torch
from jobs import BACKBONE
from safetensors.torch import load_file

from hf_relabel.config import TrainConfig
from hf_relabel.errors import LabelerError
from hf_relabel.labeling.labeler import Heads, HeadShape, ImageScores, Labeler

TRAINING = {"digest": "d", "inputs": {}}
NOT_CALIBRATED = ImageScores("object", None, False, {})


def heads(count: int = 1, head: str = "mlp", features: int = 6, outputs: int = 4, hidden: int = 8) -> Heads:
    torch.manual_seed(0)
    return Heads(HeadShape(head, features, outputs, hidden, layers=2, dropout=0.1), count).eval()


def make(count: int = 3) -> Labeler:
    return Labeler(heads(count), ["a", "b", "c"], NOT_CALIBRATED, 5, BACKBONE, TRAINING)


def test_the_default_mlp_is_that_of_the_paper():
    config = TrainConfig()
    shape = HeadShape("mlp", 1024, 1000, config.hidden, config.layers, config.dropout)
    assert shape.widths == [1024, 1024, 1024, 1000]
    assert shape.dropout == 0.1


@pytest.mark.parametrize("head", ["linear", "discriminant"])
def test_a_linear_head_has_one_layer(head):
    assert HeadShape(head, 6, 3, 8, 2, 0.1).widths == [6, 3]


def test_a_head_is_the_usual_mlp():
    """Linear layers with GELU between them, by torch's own modules."""
    several = heads(2)
    layers: list[torch.nn.Module] = []
    for place, (weight, bias) in enumerate(zip(several.weights, several.biases, strict=True)):
        layer = torch.nn.Linear(*weight.shape[1:])
        layer.load_state_dict({"weight": weight[1].T, "bias": bias[1]})
        layers += [torch.nn.GELU()] * bool(place) + [layer]
    features = torch.randn(5, 6)
    expected = torch.nn.Sequential(*layers)(features)
    assert torch.allclose(several(features)[1], expected, atol=1e-6)
    assert torch.allclose(several.one(features, 1), expected, atol=1e-6)


def test_standardize_centers_and_scales():
    plain, scaled = heads(head="linear", features=2), heads(head="linear", features=2)
    scaled.standardize(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0]))
    assert torch.allclose(scaled(torch.tensor([[3.0, 2.0]])), plain(torch.tensor([[1.0, 0.0]])))


def test_an_image_is_labeled_by_the_head_that_left_out_its_fold():
    several, features = heads(4), torch.randn(5, 6)
    found = several.of_folds(features, torch.tensor([2, 0, -1, 1, 2]))
    for row, head in enumerate([3, 1, 0, 2, 3]):
        assert torch.allclose(found[row], several(features)[head, row], atol=1e-6)


def test_folds_follow_from_the_images_and_the_seed():
    ids = [f"{k}.jpg" for k in range(200)]
    labeler = make(count=6)
    assert sorted(set(labeler.folds_of(ids))) == [0, 1, 2, 3, 4]
    assert np.array_equal(labeler.folds_of(ids[::-1])[::-1], labeler.folds_of(ids))
    assert set(make(count=1).folds_of(ids)) == {-1}


def test_a_loaded_labeler_gives_the_same_logits(tmp_path):
    labeler = make()
    labeler.save(tmp_path)
    again = Labeler.load(tmp_path, BACKBONE)
    features, folds = torch.randn(5, 6), torch.tensor([0, 1, -1, 1, 0])
    assert torch.equal(labeler.heads.of_folds(features, folds), again.heads.of_folds(features, folds))
    assert (again.class_names, again.scores, again.seed, again.folds) == (["a", "b", "c"], NOT_CALIBRATED, 5, 2)
    assert not again.heads.training
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


def test_other_classes_are_refused(tmp_path):
    make().save(tmp_path)
    with pytest.raises(LabelerError, match="class 1 is 'b', in the source it is 'x'"):
        Labeler.load(tmp_path, BACKBONE, ["a", "x", "c"])


def test_missing_and_damaged_labelers(tmp_path):
    with pytest.raises(LabelerError, match="run `hf-relabel train` first"):
        Labeler.load(tmp_path, BACKBONE)
    make().save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(LabelerError, match=r"model\.safetensors: damaged"):
        Labeler.load(tmp_path, BACKBONE)

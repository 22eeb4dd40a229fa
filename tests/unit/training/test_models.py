"""Classifiers from transformers: which parameters are the head."""

import logging

import pytest
import torch
import transformers

from hf_relabel.training.models import head_parameters, image_size_of, make_classifier

SIDE = 32
VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8, "image_size": SIDE}
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "image_size": SIDE}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
TWO_TOWERS = {"vision_config": VIT, "text_config": TEXT | {"bos_token_id": 0, "eos_token_id": 1}}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
EFFICIENT = {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 64, "image_size": SIDE}
FOUR = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
LEVIT = {"image_size": 64, "hidden_sizes": [16] * 3, "num_attention_heads": [2] * 3, "depths": [1] * 3}
ONE_LAYER = ["classifier.bias", "classifier.weight"]


@pytest.mark.parametrize(
    ("name", "settings", "head"),
    [
        ("CLIP", TWO_TOWERS, ONE_LAYER),
        ("Siglip", TWO_TOWERS, ONE_LAYER),
        ("ViT", VIT | {"num_labels": 16}, ONE_LAYER),  # as many classes as features
        ("Swin", SWIN, ONE_LAYER),
        ("ConvNext", STAGES | {"num_stages": 2}, ONE_LAYER),
        ("Dinov2", VIT, ONE_LAYER),
        ("ResNet", STAGES | {"embedding_size": 8}, ["classifier.1.bias", "classifier.1.weight"]),
        ("EfficientNet", EFFICIENT, ONE_LAYER),
        ("MobileNetV2", {"depth_multiplier": 0.25, "image_size": SIDE}, ONE_LAYER),
        ("PoolFormer", FOUR, ONE_LAYER),  # its last normalization is outside the base model, and not of the head
        (
            "Levit",
            LEVIT | {"key_dim": [8] * 3},
            [f"classifier.{layer}.{value}" for layer in ("batch_norm", "linear") for value in ("bias", "weight")],
        ),
    ],
)
def test_the_head_is_the_classifier(name, settings, head):
    config = getattr(transformers, f"{name}Config")(**{"num_labels": 3, **settings})
    model = getattr(transformers, f"{name}ForImageClassification")._from_config(config)
    before = torch.get_rng_state()
    found = head_parameters(model)
    assert sorted(found) == head
    assert all(value is model.get_parameter(key) for key, value in found.items())
    assert torch.equal(torch.get_rng_state(), before), "a fit's random numbers stay the same"
    if name in ("CLIP", "Siglip", "ViT"):
        assert image_size_of(model) == SIDE


@pytest.mark.parametrize("scratch", [False, True])
def test_a_model_of_other_classes_is_taken_without_a_warning(tmp_path, scratch):
    config = transformers.ViTConfig(intermediate_size=16, id2label={0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}, **VIT)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("transformers").addHandler(handler)
    try:
        model = make_classifier(str(tmp_path), None, ["x", "y", "z"], True, scratch, new_head=False)
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert [record.getMessage() for record in records] == []
    assert model.config.id2label == {0: "x", 1: "y", 2: "z"}
    assert model.config.label2id == {"x": 0, "y": 1, "z": 2}
    assert model.classifier.weight.shape == (3, 16)

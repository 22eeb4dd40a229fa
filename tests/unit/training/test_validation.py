"""Validation: which images are held out, the metrics of an epoch, the best weights."""

import numpy as np
import pytest
import torch
from torch import nn

from hf_relabel.training.losses import balanced_weights, binary_cross_entropy, cross_entropy
from hf_relabel.training.models import default_size_of
from hf_relabel.training.validation import Best, epoch_metrics, held_out, per_class


def test_the_same_images_are_held_out_whatever_else_is_there():
    ids = [f"{number}.jpg" for number in range(200)]
    chosen = held_out(ids, 0.1, seed=0)
    assert chosen.sum() == 20
    names = {name for name, out in zip(ids, chosen, strict=True) if out}
    shuffled = ids[::-1]
    assert {name for name, out in zip(shuffled, held_out(shuffled, 0.1, 0), strict=True) if out} == names
    assert (held_out(ids, 0.1, seed=1) != chosen).any()
    fewer = held_out(ids[:150], 0.1, seed=0)
    assert names >= {name for name, out in zip(ids, fewer, strict=False) if out} or fewer.sum() == 15
    assert not held_out(ids, 0.0, 0).any()
    assert not held_out(["a"], 0.9, 0).any(), "something is left to train on"


def test_metrics_by_hand():
    scores = np.array([[0.9, 0.1, 0.2], [0.3, 0.4, 0.1], [0.2, 0.2, 0.2]], np.float32)
    truth = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0]], bool)  # the last image has no label
    found = epoch_metrics(scores, truth)
    assert found["val_map_over_images"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["val_map_over_classes"] == pytest.approx(1.0)
    assert (found["val_f1"], found["val_threshold"]) == (pytest.approx(0.8), pytest.approx(0.3))
    table = per_class(scores, truth, ["a", "b", "c"], 0.35)
    assert table["a"] == {"images": 2, "ap": 1.0, "f1": pytest.approx(2 / 3)}
    assert table["c"] == {"images": 0, "ap": None, "f1": None}
    assert epoch_metrics(scores, np.zeros_like(truth))["val_f1"] == 0


def test_the_best_weights_survive_a_checkpoint():
    model, best = nn.Linear(1, 1), Best()
    for epoch, value in enumerate([0.3, 0.7, 0.5], start=1):
        model.weight.data.fill_(epoch)
        best.offer(epoch, value, model)
    restored = Best()
    restored.load_state_dict(best.state_dict())
    model.load_state_dict(restored.weights)
    assert (restored.epoch, restored.value, model.weight.item()) == (2, 0.7, 2.0)


def test_class_weights_balance_the_loss():
    weights = balanced_weights(torch.tensor([100.0, 50.0, 0.0, 1.0]))
    assert weights[1] == 2 * weights[0]
    assert weights[2] == 1
    assert balanced_weights(torch.tensor([1000.0] * 30 + [1.0]))[-1] == 10
    logits, targets = torch.zeros(2, 3), torch.eye(3)[:2]
    unit = torch.ones(3)
    torch.testing.assert_close(binary_cross_entropy(logits, targets, unit), binary_cross_entropy(logits, targets))
    first_only = torch.tensor([1.0, 0.0, 0.0])
    assert cross_entropy(logits, targets, first_only) == pytest.approx(cross_entropy(logits, targets).item() / 2)


@pytest.mark.parametrize(("kind", "made_for", "size"), [("Dinov2", 518, 224), ("Dinov2", 196, 196), ("ViT", 384, 384)])
def test_the_default_image_size_is_one_to_wait_for(kind, made_for, size):
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=made_for, patch_size=14
    )
    found, why = default_size_of(getattr(transformers, f"{kind}ForImageClassification")(config))
    assert found == size
    assert bool(why) == (size != made_for)

"""Losses against their formulas and against those in torch."""

import math

import pytest
import torch
from torch.nn import functional

from hf_relabel.training.config import TrainingConfig
from hf_relabel.training.losses import asymmetric, binary_cross_entropy, cross_entropy, make_loss, smoothed


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5, 4, generator=generator)
    return logits, torch.rand(5, 4, generator=generator)


def test_binary_cross_entropy_is_the_sum_over_classes(batch):
    logits, targets = batch
    p = logits.sigmoid()
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum(dim=1).mean()
    assert binary_cross_entropy(logits, targets).item() == pytest.approx(expected.item(), rel=1e-5)


def test_asymmetric_without_focus_is_binary_cross_entropy(batch):
    logits, targets = batch
    plain = binary_cross_entropy(logits, targets).item()
    assert asymmetric(logits, targets, 0, 0, 0).item() == pytest.approx(plain, rel=1e-5)


def test_asymmetric_by_hand():
    # present: p = 0.8, cost (0.2)^1 * -log 0.8; absent: p = 0.3, shifted to 0.2, cost 0.2^2 * -log 0.8
    logits = torch.logit(torch.tensor([[0.8, 0.3]]))
    expected = -(0.2 * math.log(0.8) + 0.04 * math.log(0.8))
    assert asymmetric(logits, torch.tensor([[1.0, 0.0]]), 1, 2, 0.1).item() == pytest.approx(expected, rel=1e-5)
    # an absent class below the clip has no loss
    assert asymmetric(torch.logit(torch.tensor([[0.04]])), torch.zeros(1, 1), 0, 4, 0.05).item() == 0


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_asymmetric_stays_finite_for_extreme_logits(clip):
    logits = torch.tensor([[-200.0, 200.0, 0.0]], requires_grad=True)
    loss = asymmetric(logits, torch.tensor([[1.0, 0.0, 0.5]]), 0, 4, clip)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_cross_entropy_normalizes_targets(batch):
    logits, _ = batch
    labels = torch.tensor([0, 3, 1, 2, 2])
    one_hot = functional.one_hot(labels, 4).float()
    expected = functional.cross_entropy(logits, labels).item()
    assert cross_entropy(logits, one_hot).item() == pytest.approx(expected)
    assert cross_entropy(logits, 0.5 * one_hot).item() == pytest.approx(expected)
    assert cross_entropy(logits[:1], torch.zeros(1, 4)).item() == 0


def test_label_smoothing(batch):
    assert smoothed(torch.tensor([0.0, 0.5, 1.0]), 0.1, 0.9).tolist() == pytest.approx([0.1, 0.5, 0.9])
    logits, targets = batch
    loss = make_loss(TrainingConfig(model="m", out="o", floor=0.1, cap=0.9))
    expected = binary_cross_entropy(logits, 0.1 + 0.8 * targets)
    assert loss(logits, targets).item() == pytest.approx(expected.item())


def test_each_loss_is_lower_for_correct_logits():
    targets = torch.tensor([[1.0, 0.0, 0.0]])
    right, wrong = torch.tensor([[4.0, -4.0, -4.0]]), torch.tensor([[-4.0, 4.0, -4.0]])
    for name in ("bce", "asymmetric", "cross_entropy"):
        loss = make_loss(TrainingConfig(model="m", out="o", loss=name))
        assert loss(right, targets) < loss(wrong, targets), name

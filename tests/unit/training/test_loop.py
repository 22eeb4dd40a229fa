"""Parts of the training loop: schedule, weight decay groups, moving average, frozen parts, order of an epoch."""

import math
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset

from hf_relabel.errors import UsageError
from hf_relabel.training.config import FitConfig, TrainingConfig
from hf_relabel.training.data import EpochSampler
from hf_relabel.training.loop import MovingAverage, _to_training, learning_rate, make_optimizer, train


def test_learning_rate_schedule():
    rates = [learning_rate(step, 100, 10) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(0, 1, 0) == 1
    assert [learning_rate(step, 5, 5) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_only_trained_matrices_have_weight_decay(name):
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    config = TrainingConfig(model="m", out="o", optimizer=name, weight_decay=0.1, lr=0.5)
    decayed, plain = make_optimizer(model, config).param_groups
    assert decayed["weight_decay"] == 0.1
    assert [id(p) for p in decayed["params"]] == [id(model[2].weight)]
    assert plain["weight_decay"] == 0
    assert len(plain["params"]) == 4


def test_moving_average_by_hand():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = MovingAverage(model, decay=0.5)
    model.weight.data.fill_(1.0)
    average.update(model)  # decay min(0.5, 2 / 11)
    assert average.model.weight.item() == pytest.approx(1 - 2 / 11)
    other = MovingAverage(model, decay=0.5)
    other.load_state_dict(average.state_dict())
    for _ in range(20):
        model.weight.data.fill_(3.0)
        average.update(model)
        other.update(model)
    assert average.model.weight.item() == pytest.approx(3, abs=1e-4)
    assert other.model.weight.item() == average.model.weight.item()
    assert not average.model.weight.requires_grad


def test_moving_average_copies_buffers():
    model = nn.BatchNorm1d(2)
    average = MovingAverage(model, decay=0.999)
    model(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    average.update(model)
    assert torch.equal(average.model.running_mean, model.running_mean)


class _Points(Dataset):
    """Twelve 2-D points with soft targets over three classes, numbered like `data.AugmentedImages`."""

    def __init__(self):
        torch.manual_seed(1)
        self._points, self._targets = torch.randn(12, 2), torch.rand(12, 3)

    def __len__(self):
        return len(self._points)

    def __getitem__(self, number):
        return self._points[number % 12], self._targets[number % 12]


class _Linear(nn.Module):
    """A model with the interface of a transformers classifier."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.head = nn.Linear(2, 3)

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.head(pixel_values))


def _train(tmp_path, **settings):
    common = {"optimizer": "sgd", "lr": 0.1, "clip_norm": 0.0, "checkpoint_every": 0, "warmup_epochs": 0}
    config = TrainingConfig(model="m", out=str(tmp_path), **{**common, **settings})
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=config.accumulation)
    model, history = train(_Linear(), _Points(), config, accelerator)
    return model.head.weight.detach().clone(), history


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    whole, one = _train(tmp_path, batch_size=6, epochs=3)
    parts, two = _train(tmp_path, batch_size=2, accumulation=3, epochs=3)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    assert [row["lr"] for row in one] == [row["lr"] for row in two]
    other, _ = _train(tmp_path, batch_size=2, epochs=3)
    assert not torch.allclose(other, whole, atol=1e-4)


def test_training_returns_the_moving_average(tmp_path):
    before = _Linear().head.weight.detach()
    last, _ = _train(tmp_path, batch_size=12, epochs=1)
    average, _ = _train(tmp_path, batch_size=12, epochs=1, ema=0.9)  # one step: decay min(0.9, 2 / 11)
    torch.testing.assert_close(average, 2 / 11 * before + 9 / 11 * last)
    assert not torch.equal(average, last)


def test_gradients_are_clipped(tmp_path):
    before = _Linear().head.weight.detach()
    free, _ = _train(tmp_path, batch_size=12, epochs=1, momentum=0.0, weight_decay=0.0)
    clipped, _ = _train(tmp_path, batch_size=12, epochs=1, momentum=0.0, weight_decay=0.0, clip_norm=0.01)
    assert (clipped - before).norm() <= 0.1 * 0.01 * 1.001 < (free - before).norm()


def test_frozen_parts_do_not_train():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    _to_training(model)
    assert [module.training for module in (model, model[0], model[0][1], model[1])] == [True, False, False, True]


def test_each_epoch_has_its_own_order_and_item_numbers():
    sampler = EpochSampler(10, seed=3)
    first = list(sampler)
    sampler.epoch = 1
    second = list(sampler)
    assert sorted(first) == list(range(10))
    assert sorted(second) == list(range(10, 20))
    assert [number - 10 for number in second] != first
    assert list(sampler) == second


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": ""}, "--model: is missing"),
        ({"out": ""}, "--out: must be a folder"),
        ({"release": ""}, "--release: must be"),
        ({"epochs": 0}, "--epochs: must be 1 or more, got 0"),
        ({"floor": 0.5, "cap": 0.4}, "--floor, --cap: must be 0 <= floor < cap <= 1"),
        ({"crop_scale": 0}, "--crop-scale: must be above 0"),
        ({"ema": 1}, "--ema: must be at least 0 and below 1"),
        ({"mixup": -1}, "--mixup: must be 0 or more"),
        ({"threshold": 2}, "--threshold: must be from 0 to 1"),
        ({"crop_aware": True, "target": "single"}, "--crop-aware: must be left out with --target single"),
        ({"freeze": True, "scratch": True}, "--freeze: must be left out with --scratch"),
        ({"freeze": True, "cutmix": 1.0}, "--cutmix: must be left out with --freeze"),
        ({"freeze": True, "views": 1, "crop_aware": True}, "--crop-aware: must be left out with --freeze"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        FitConfig(**{"model": "m", "out": "o", "release": "r", **settings})

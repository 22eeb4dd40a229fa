"""Matrix products with oneDNN have the same values as PyTorch's, with full float32 precision, on any CPU."""

import pytest
import torch
from torch import nn

from hf_relabel.vision import onednn

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")


@pytest.mark.parametrize("shape", [(1, 1), (5, 33), (2, 3, 33)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_product_has_float32_precision(shape, with_bias):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(shape, generator=generator)
    weight = torch.randn(7, shape[-1], generator=generator)
    bias = torch.randn(7, generator=generator) if with_bias else None
    expected = inputs.double() @ weight.double().T + (bias.double() if with_bias else 0)
    torch.testing.assert_close(onednn.linear(inputs, weight, bias).double(), expected, rtol=1e-6, atol=1e-5)


def test_product_of_slices():
    whole = torch.arange(60.0).view(10, 6)
    assert torch.equal(onednn.linear(whole[2:4, 1:], whole[5:, 1:]), whole[2:4, 1:] @ whole[5:, 1:].T)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_and_infinity_are_preserved(value):
    inputs = torch.ones(3, 8)
    inputs[1, 2] = value
    finite = onednn.linear(inputs, torch.ones(4, 8)).isfinite().all(dim=1)
    assert finite.tolist() == [True, False, True]


def test_converted_model_gives_the_same_output_and_runs_hooks():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 3, bias=False)))
    inputs = torch.randn(2, 5, 8)
    with torch.inference_mode():
        expected = model(inputs)
        onednn.convert(model)
        seen = []
        model[2][1].register_forward_hook(lambda module, inputs, output: seen.append(output))
        torch.testing.assert_close(model(inputs), expected)
    assert seen[0].shape == (2, 5, 3)
    assert all(layer.weight.is_mkldnn for layer in model.modules() if isinstance(layer, nn.Linear))


def test_only_cpus_use_onednn():
    assert not onednn.is_faster(torch.device("cuda"))

"""Float32 matrix products with oneDNN, where it is faster than PyTorch's default.

On x86, PyTorch computes float32 products with Intel's MKL, which does not use 512-bit vectors on other vendors' CPUs.
oneDNN, which is included in PyTorch, took half the time on an AMD CPU (scripts/bench/README.md). It also computes in
full float32.
"""

import torch
from torch import nn


def is_faster(device: torch.device) -> bool:
    """Whether to use oneDNN on a device: on CPUs with 512-bit vectors. On Intel CPUs, MKL uses these vectors too."""
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


def linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Compute `torch.nn.functional.linear` of inputs [..., C], weight [m, C] and bias [m]: [..., m], all float32.

    Weight and bias may already be oneDNN tensors, which saves copying them.
    """
    weight = weight if weight.is_mkldnn else weight.to_mkldnn()
    return nn.functional.linear(inputs.to_mkldnn(), weight, bias).to_dense()


def convert(model: nn.Module) -> None:
    """Replace all linear layers of a float32 model on a CPU with oneDNN layers, for inference only."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, _Linear(child))


class _Linear(nn.Linear):
    """A copy of a linear layer whose weights are stored as oneDNN tensors."""

    def __init__(self, layer: nn.Linear):
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight = nn.Parameter(layer.weight.detach().to_mkldnn(), requires_grad=False)
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().to_mkldnn(), requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return linear(inputs, self.weight, self.bias)

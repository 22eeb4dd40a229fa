"""Float32 products by oneDNN, where it is faster than what PyTorch takes by itself.

PyTorch hands float32 products on x86 to Intel's MKL, which leaves the 512-bit vectors of other makers' processors
unused: oneDNN, which comes with PyTorch, took half the time on one of AMD's (scripts/bench/README.md). It computes in
full float32 too.
"""

import torch
from torch import nn


def is_faster(device: torch.device) -> bool:
    """Whether this module may pay on a device: on a CPU with 512-bit vectors. On Intel's own, MKL uses them too."""
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


def linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`torch.nn.functional.linear` of inputs [..., C], weight [m, C] and bias [m]: [..., m], all float32.

    Weight and bias may be oneDNN's tensors already, which saves a copy of them.
    """
    weight = weight if weight.is_mkldnn else weight.to_mkldnn()
    return nn.functional.linear(inputs.to_mkldnn(), weight, bias).to_dense()


def convert(model: nn.Module) -> None:
    """Let oneDNN compute all linear layers of a float32 model on a CPU, for inference."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, _Linear(child))


class _Linear(nn.Linear):
    """A layer with the values of another, kept as oneDNN's tensors."""

    def __init__(self, layer: nn.Linear):
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight = nn.Parameter(layer.weight.detach().to_mkldnn(), requires_grad=False)
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().to_mkldnn(), requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return linear(inputs, self.weight, self.bias)

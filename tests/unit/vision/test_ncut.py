import pytest
import torch

from hf_relabel.vision.ncut import NormalizedAffinity, affinity, generic_vector


@pytest.fixture(scope="module")
def graph() -> torch.Tensor:
    """A random graph of 0 and 1, bool [n, n]; a third of the patches have edges to one another only."""
    n = 300
    random = torch.rand(n, n, generator=torch.Generator().manual_seed(0)) > 0.7
    random[:100, 100:] = False
    random[100:, :100] = False
    return random | random.mT


def test_the_type_of_a_graph_does_not_change_any_bit_of_a_product(graph):
    """Which type is fastest depends on the processor; the masks must not."""
    excluded = torch.arange(300) % 7 == 0
    expected, found = (NormalizedAffinity(graph.to(kind), excluded) for kind in (torch.int8, torch.float64))
    assert torch.equal(found.scale, expected.scale)
    dense = 1e-5 + (1 - 1e-5) * (graph & ~excluded[:, None] & ~excluded).double()
    exact = dense / (dense.sum(1, keepdim=True) * dense.sum(0)).sqrt()
    for vector in (generic_vector(300), generic_vector(600)[300:], found.trivial):
        unit = torch.nn.functional.normalize(vector, dim=0)
        assert torch.equal(found.times(unit), expected.times(unit))
        assert torch.allclose(found.times(unit), exact @ unit, atol=1e-8)


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_graphs_are_the_same_on_every_processor(monkeypatch, capability):
    unit = torch.nn.functional.normalize(torch.randn(1, 250, 16, generator=torch.Generator().manual_seed(1)), dim=2)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert torch.equal(affinity(unit, 0.2).bool(), (unit @ unit.mT) > 0.2)

import pytest
import torch

from hf_relabel.vision.ncut import NormalizedAffinity, affinity, generic_vectors


@pytest.fixture(scope="module")
def graph() -> torch.Tensor:
    """A random graph of 0 and 1, bool [1, n, n]; a third of the patches have edges to one another only."""
    n = 300
    random = torch.rand(1, n, n, generator=torch.Generator().manual_seed(0)) > 0.7
    random[:, :100, 100:] = False
    random[:, 100:, :100] = False
    return random | random.mT


def test_the_type_of_a_graph_does_not_change_any_bit_of_a_product(graph):
    """Which type is fastest depends on the processor; the masks must not."""
    excluded = torch.arange(300)[None] % 7 == 0
    expected, found = (NormalizedAffinity(graph.to(kind), excluded) for kind in (torch.int8, torch.float64))
    vectors = torch.nn.functional.normalize(generic_vectors(3, 300)[None], dim=2)
    assert torch.equal(found.scale, expected.scale)
    assert torch.equal(found @ vectors, expected @ vectors)
    dense = 1e-5 + (1 - 1e-5) * (graph & ~excluded[:, None] & ~excluded[:, :, None]).double()
    exact = dense / (dense.sum(2, keepdim=True) * dense.sum(1, keepdim=True)).sqrt()
    assert torch.allclose(found @ vectors, vectors @ exact, atol=1e-8)


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_graphs_are_the_same_on_every_processor(monkeypatch, capability):
    unit = torch.nn.functional.normalize(torch.randn(1, 250, 16, generator=torch.Generator().manual_seed(1)), dim=2)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert torch.equal(affinity(unit, 0.2).bool(), (unit @ unit.mT) > 0.2)

"""Which networks are chains of layers, and that a chain computes what its network does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.variants.runtime.sparse.layers import chosen, sparse_linear, weights_of
from variants.catalog.kernels import DENSE
from variants.runtime.kernels import library
from variants.runtime.sparse.chain import ChainedNetwork, find_chain
from variants.runtime.sparse.forms import SparseKind
from variants.runtime.sparse.linear import SparseLinear

pytestmark = pytest.mark.skipif(not library.is_compiled(), reason=library.missing_reason())

FEATURES = torch.rand(5, 40, generator=torch.Generator().manual_seed(1))


def _sparse(
    kind: SparseKind = "linear-2:4", inputs: int = 40, out: int = 64, activation: str = "relu"
) -> SparseLinear:
    weights = weights_of(sparse_linear(kind, inputs, out), kind, activation)
    return SparseLinear(weights, chosen(weights, (1, "rows"), (64, "rows")))


class Network(nn.Module):
    """Two sparse layers and a small dense one, with a function between the input and them."""

    def __init__(self, before: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.before = before
        self.first = _sparse()
        self.second = _sparse("linear-sparse", 64, 64)
        self.last = nn.Linear(64, 10)
        self.register_buffer("mean", torch.tensor(0.3))
        self.register_buffer("means", torch.rand(40))
        self.kept: Any = None

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.last(self.second(self.first(self.before(self, features))))
        return result


def _find(network: nn.Module, *shape: int) -> ChainedNetwork | None:
    return find_chain(network.eval(), shape or (40,), threads=1)


def _require_same(network: nn.Module, features: Tensor = FEATURES) -> None:
    chain = _find(network, *features.shape[1:])
    assert chain is not None
    for rows in (1, 2, 5):
        part = features[:rows].contiguous()
        with torch.inference_mode():
            expected = network(part)
        actual = chain.run(part.numpy())
        assert actual is not None
        torch.testing.assert_close(torch.from_numpy(actual), expected, atol=1e-5, rtol=1e-5)


CHAINS: dict[str, Callable[[Any, Tensor], Any]] = {
    "nothing": lambda network, x: x,
    "normalization": lambda network, x: (x - 0.286) / 0.353,
    "a scalar on the left": lambda network, x: 2 * (1 + x),
    "a buffer": lambda network, x: x - network.mean,
    "torch functions": lambda network, x: torch.relu(torch.sub(torch.mul(x, 2), 0.5)),
    "methods": lambda network, x: x.sub(0.3).relu().mul(3).add(1).div(2),
    "F.relu": lambda network, x: F.relu(x - 0.5),
    "flattening": lambda network, x: torch.flatten(x, 1),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_computes_what_its_network_does(name: str) -> None:
    _require_same(Network(CHAINS[name]))


OTHERS: dict[str, Callable[[Any, Tensor], Any]] = {
    "a vector": lambda network, x: x - network.means,
    "reversed division": lambda network, x: 1 / (x + 1),
    "reversed subtraction": lambda network, x: 1 - x,
    "the input twice": lambda network, x: x + x,
    "a skip": lambda network, x: F.relu(x) + x,
    "alpha": lambda network, x: torch.add(x, 1, alpha=2),
    "rounding": lambda network, x: torch.div(x, 2, rounding_mode="floor"),
    "another function": lambda network, x: torch.sigmoid(x),
    "a branch": lambda network, x: x if x.sum() > 0 else -x,
    "a branch on the batch": lambda network, x: x if len(x) > 2 else x + 1,
    "other dimensions": lambda network, x: torch.flatten(x),
    "noise": lambda network, x: x + torch.rand(1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_have_no_chain(name: str) -> None:
    assert _find(Network(OTHERS[name])) is None


def test_images_are_flattened() -> None:
    network = nn.Sequential(nn.Flatten(), _sparse(), nn.Dropout(), nn.Identity(), nn.Linear(64, 2))
    _require_same(network, FEATURES.reshape(5, 1, 4, 10))
    assert _find(nn.Sequential(nn.ReLU(), _sparse()), 1, 40) is None  # rows of two dimensions


@pytest.mark.parametrize("kind", ["linear-2:4", "linear-2:4-int8", "linear-sparse"])
def test_sparse_layers_give_the_bits_of_the_network(kind: SparseKind) -> None:
    network = nn.Sequential(_sparse(kind), _sparse(kind, 64, 33, "none"))
    chain = _find(network)
    assert chain is not None
    actual = chain.run(FEATURES.numpy())
    assert actual is not None
    with torch.inference_mode():
        assert np.array_equal(actual, network(FEATURES).numpy())


def test_tracing_leaves_the_network_as_it_was() -> None:
    def keep(network: Any, x: Tensor) -> Tensor:
        network.kept = x
        return x

    network = Network(keep)
    weight = network.last.weight
    assert _find(network) is not None
    assert isinstance(network.kept, Tensor)  # of the comparison, not of the tracing
    assert network.last.weight is weight


def test_torch_computes_where_one_of_its_products_is_faster() -> None:
    weights = weights_of(sparse_linear("linear-2:4", 40, 64), "linear-2:4")
    layer = SparseLinear(weights, chosen(weights, (4, "rows"), (32, DENSE)))
    chain = _find(nn.Sequential(layer))
    assert chain is not None
    ran = [chain.run(np.ones((rows, 40), np.float32)) is not None for rows in (0, 1, 4, 5, 32, 33)]
    assert ran == [False, True, True, False, False, False]


def test_other_features_are_left_to_the_network() -> None:
    chain = _find(nn.Sequential(_sparse()))
    assert chain is not None
    assert chain.run(np.ones((2, 41), np.float32)) is None
    assert chain.run(np.ones((2, 40), np.float64)) is None
    assert chain.run(np.ones((40, 2), np.float32).T) is None


def test_large_dense_layers_are_left_to_torch() -> None:
    assert _find(nn.Sequential(_sparse(out=64), nn.Linear(64, 64))) is None
    assert _find(nn.Sequential(nn.Linear(40, 64), nn.ReLU())) is None  # nothing is sparse


def test_a_subclass_may_compute_something_else() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    network = nn.Sequential(_sparse(), Doubled(64, 2))
    chain = _find(network)  # its forward is traced, or it has no chain
    assert chain is None


def test_a_chain_that_differs_from_its_network_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = nn.Sequential(_sparse(), nn.Linear(64, 2)).eval()
    traced = nn.Sequential(network[0], nn.Linear(64, 2))  # other weights
    monkeypatch.setattr(copy, "deepcopy", lambda *_: traced)
    assert find_chain(network, (40,), threads=1) is None
    assert "the network runs layer by layer" in caplog.text

"""Weights and activations of unusual values: zero, constant, huge, tiny, with outliers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from tests.zoo.specimen import (
    CLASSES,
    TOKENS,
    VECTORS,
    Data,
    Output,
    of_type,
    set_random_weights,
    specimen,
    vectors,
)
from variants.model.dataset import Samples


def _mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, CLASSES)
    )


def _random_then(change: Callable[[nn.Module], object]) -> Callable[[nn.Module], None]:
    """Return a function that sets random weights and then changes some of them."""

    def prepare(network: nn.Module) -> None:
        set_random_weights(network)
        change(network)

    return prepare


@specimen(VECTORS, prepare=_random_then(lambda net: net.get_parameter("2.weight").zero_()))
def zero_layer() -> nn.Module:
    return _mlp()


@specimen(VECTORS, prepare=_random_then(lambda net: net.get_parameter("2.weight")[::2].zero_()))
def zero_rows() -> nn.Module:
    return _mlp()


def _set_zero(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.zero_()


@specimen(VECTORS, prepare=_set_zero)
def all_zero() -> nn.Module:
    return _mlp()


@specimen(VECTORS, prepare=_random_then(lambda net: net.get_parameter("4.weight").zero_()))
def constant_outputs() -> nn.Module:
    return _mlp()


@specimen(VECTORS, prepare=_random_then(lambda net: net.get_parameter("0.bias").fill_(-1e3)))
def dead_neurons() -> nn.Module:
    return _mlp()


@specimen(
    Data(of_type(vectors, "float32", 1e3)),
    prepare=_random_then(lambda net: net.get_parameter("0.weight").mul_(1e6)),
)
def huge_values() -> nn.Module:
    return _mlp()


@specimen(VECTORS, prepare=_random_then(lambda net: net.get_parameter("2.weight").mul_(1e-41)))
def denormal_weights() -> nn.Module:
    return _mlp()


@specimen(
    VECTORS,
    prepare=_random_then(
        lambda net: [net.get_parameter(name).mul_(1e-6) for name in ("0.weight", "0.bias")]
    ),
)
def tiny_activations() -> nn.Module:
    return _mlp()


@specimen(VECTORS, prepare=_random_then(lambda net: net.get_parameter("2.weight")[0].mul_(200.0)))
def outlier_row() -> nn.Module:
    return _mlp()


@specimen(
    VECTORS,
    prepare=_random_then(
        lambda net: [
            net.get_parameter("norm.weight")[3].mul_(20.0),
            net.get_parameter("body.weight")[:, 3].mul_(0.05),
        ]
    ),
)
class OutlierChannel(nn.Module):
    """SmoothQuant's case: one channel of a LayerNorm is much larger than the others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(8, 16), nn.LayerNorm(16)
        self.body, self.head = nn.Linear(16, 24), nn.Linear(24, CLASSES)

    def forward(self, features: Tensor) -> Output:
        return self.head(self.body(self.norm(self.stem(features))).relu())


@specimen(VECTORS, prepare=_random_then(lambda net: net.get_parameter("4.bias").fill_(1e3)))
def large_offset() -> nn.Module:
    return _mlp()


def _in_order(random: np.random.Generator, size: int) -> Samples:
    """Return samples whose features have scales from 1e-3 to 1e3."""
    scales = np.logspace(-3, 3, 8, dtype=np.float32)
    return {"input": random.standard_normal((size, 8)).astype(np.float32) * scales}


@specimen(
    Data(_in_order),
    prepare=_random_then(lambda net: net.get_parameter("0.weight").div_(torch.logspace(-3, 3, 8))),
)
def unscaled_features() -> nn.Module:
    return _mlp()


@specimen(VECTORS)
class ScalarParameter(nn.Module):
    """A parameter without dimensions, and one without elements."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, CLASSES)
        self.temperature = nn.Parameter(torch.tensor(1.5))
        self.unused = nn.Parameter(torch.zeros(0, 4))

    def forward(self, features: Tensor) -> Output:
        return self.head(self.body(features).relu()) * self.temperature


@specimen(TOKENS)
class ClampedIds(nn.Module):
    """Ids out of range are looked up as the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(12, 16), nn.Linear(16, CLASSES)

    def forward(self, ids: Tensor) -> Output:
        return self.head(self.embedding(ids.clamp(max=11)).mean(1).relu())


@specimen(TOKENS)
class IdsOutOfRange(nn.Module):
    """The data hold ids that the table lacks: the project is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(12, 16), nn.Linear(16, CLASSES)

    def forward(self, ids: Tensor) -> Output:
        return self.head(self.embedding(ids).mean(1).relu())

"""Weights that are used more than once, or that several layers hold."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.specimen import (
    CLASSES,
    TOKENS,
    VECTORS,
    Data,
    Output,
    set_random_weights,
    specimen,
    together,
    vectors,
)

TWO_VECTORS = Data(together(left=vectors, right=vectors))


@specimen(VECTORS)
class CalledTwice(nn.Module):
    """One Linear called twice. A quantizer transposed its weight twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.head = (
            nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, CLASSES),
        )  # fmt: skip

    def forward(self, features: Tensor) -> Output:
        hidden = self.stem(features).relu()
        return self.head(self.shared(self.shared(hidden).relu()).relu())


@specimen(VECTORS)
class CalledThreeTimes(nn.Module):
    """One Linear without bias called three times, followed by different operations."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.head = nn.Linear(8, 8, bias=False), nn.Linear(8, CLASSES)

    def forward(self, features: Tensor) -> Output:
        hidden = self.shared(features).relu()
        hidden = hidden + self.shared(hidden).sigmoid()
        return self.head(self.shared(hidden))


@specimen(VECTORS)
class TwoNames(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.first = nn.Linear(16, 16)
        self.second = self.first
        self.head = nn.Linear(16, CLASSES)

    def forward(self, features: Tensor) -> Output:
        hidden = self.first(self.stem(features).relu()).relu()
        return self.head(self.second(hidden).tanh())


@specimen(VECTORS)
class OneParameterInTwoLayers(nn.Module):
    """Two layers with biases of their own hold the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.head = nn.Linear(16, CLASSES)

    def forward(self, features: Tensor) -> Output:
        hidden = self.stem(features).relu()
        return self.head(self.second(self.first(hidden).relu()).relu())


@specimen(VECTORS)
class TiedAutoencoder(nn.Module):
    """A weight that is also read transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(8, 12), nn.Linear(8, CLASSES)

    def forward(self, features: Tensor) -> Output:
        code = self.encoder(features).relu()
        return self.head(F.linear(code, self.encoder.weight.t()).relu())


@specimen(TWO_VECTORS)
class TwoTowers(nn.Module):
    """One encoder for two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 12))
        self.head = nn.Linear(24, CLASSES)

    def forward(self, left: Tensor, right: Tensor) -> Output:
        first, second = self.encoder(left), self.encoder(right)
        return self.head(torch.cat([first * second, (first - second).abs()], 1))


@specimen(TWO_VECTORS)
class SharedMatMul(nn.Module):
    """One encoder without biases for two inputs: a MatMul whose weight two nodes read."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(8, 16, bias=False), nn.Linear(16, CLASSES)

    def forward(self, left: Tensor, right: Tensor) -> Output:
        return self.head((self.encoder(left) * self.encoder(right)).tanh())


@specimen(TOKENS)
class TiedEmbeddings(nn.Module):
    """The table of the embedding is also the weight of a later layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(20, 12), nn.Linear(12, 12)
        self.scores = nn.Linear(12, 20, bias=False)
        self.scores.weight = self.embedding.weight
        self.head = nn.Linear(20, CLASSES)

    def forward(self, ids: Tensor) -> Output:
        hidden = self.body(self.embedding(ids).mean(1)).relu()
        return self.head(self.scores(hidden).tanh())


@specimen(TOKENS)
class EmbeddingReadByLinear(nn.Module):
    """An embedding whose table is as wide as it is long, read by a layer of the same size."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(20, 20), nn.Linear(20, 20)
        self.head = nn.Linear(20, CLASSES)

    def forward(self, ids: Tensor) -> Output:
        words = self.embedding(ids).mean(1)
        scores = F.linear(self.body(words).relu(), self.embedding.weight)
        return self.head(scores.tanh())


@specimen(TOKENS)
class TwoTables(nn.Module):
    """One table is looked up for two purposes, another one once."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(20, 16), nn.Embedding(4, 16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, ids: Tensor) -> Output:
        both = self.words(ids) * self.words(19 - ids) + self.kinds(ids % 4)
        return self.head(both.mean(1).relu())


def _with_equal_weights(network: nn.Module) -> None:
    set_random_weights(network)
    network.get_parameter("2.weight").copy_(network.get_parameter("4.weight"))


@specimen(VECTORS, prepare=_with_equal_weights)
def equal_weights() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(),
        nn.Linear(16, CLASSES),
    )  # fmt: skip


@specimen(TOKENS, prepare=lambda network: _with_equal_table(network))
class EqualTable(nn.Module):
    """An embedding and a layer hold equal numbers in tensors of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(20, 12), nn.Linear(12, 20)
        self.head = nn.Linear(20, CLASSES)

    def forward(self, ids: Tensor) -> Output:
        return self.head(self.body(self.embedding(ids).mean(1)).relu())


def _with_equal_table(network: nn.Module) -> None:
    set_random_weights(network)
    network.get_parameter("body.weight").copy_(network.get_parameter("embedding.weight"))


@specimen(VECTORS)
def repeated_block() -> nn.Module:
    block = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    return nn.Sequential(nn.Linear(8, 16), *[block] * 3, nn.Linear(16, CLASSES))


@specimen(VECTORS)
def repeated_layer() -> nn.Module:
    layer, activation = nn.Linear(16, 16), nn.ReLU()
    return nn.Sequential(
        nn.Linear(8, 16), activation, layer, activation, layer, nn.Linear(16, CLASSES)
    )

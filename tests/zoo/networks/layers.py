"""Fully connected networks: widths, activations, gates, experts and arithmetic between layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.specimen import CLASSES, VECTORS, Output, specimen


@specimen(VECTORS)
def plain_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, CLASSES)
    )


@specimen(VECTORS)
def normalized_mlp() -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm1d(8), nn.Linear(8, 32, bias=False), nn.BatchNorm1d(32), nn.PReLU(32),
        nn.Dropout(0.3), nn.Linear(32, 16), nn.PReLU(), nn.Linear(16, CLASSES),
    )  # fmt: skip


@specimen(VECTORS)
class ResidualMlp(nn.Module):
    """Layers whose outputs are added must lose the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 24)
        self.inner, self.outer = nn.Linear(24, 32), nn.Linear(32, 24)
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, CLASSES)

    def forward(self, features: Tensor) -> Output:
        features = self.stem(features)
        features = features + self.outer(F.silu(self.inner(features)))
        return self.head(self.norm(features))


@specimen(VECTORS)
def without_bias() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 24, bias=False), nn.ReLU(), nn.Linear(24, 24, bias=False), nn.Tanh(),
        nn.Linear(24, CLASSES, bias=False),
    )  # fmt: skip


@specimen(VECTORS)
class BiasOnly(nn.Module):
    """Has no weights to compress."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(CLASSES))

    def forward(self, features: Tensor) -> Output:
        return features[:, :CLASSES] + self.bias


@specimen(VECTORS)
class NoParameters(nn.Module):
    """Has nothing to compress and nothing to train."""

    def forward(self, features: Tensor) -> Output:
        return features[:, :CLASSES] - features[:, CLASSES : 2 * CLASSES]


@specimen(VECTORS)
def one_neuron() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 1), nn.Tanh(), nn.Linear(1, CLASSES))


@specimen(VECTORS)
def odd_widths() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 13), nn.ReLU(), nn.Linear(13, 17), nn.ReLU(), nn.Linear(17, CLASSES)
    )


@specimen(VECTORS)
def one_layer() -> nn.Module:
    return nn.Linear(8, CLASSES)


@specimen(VECTORS)
def wide_and_deep() -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(8, 64)]
    for _ in range(6):
        layers += [nn.ReLU(), nn.Linear(64, 64)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(64, CLASSES))


@specimen(VECTORS)
class GatedUnits(nn.Module):
    """GLU: the halves of one layer are multiplied, so their channels belong together."""

    def __init__(self) -> None:
        super().__init__()
        self.gated, self.head = nn.Linear(8, 48), nn.Linear(24, CLASSES)

    def forward(self, features: Tensor) -> Output:
        return self.head(F.glu(self.gated(features), dim=1))


@specimen(VECTORS)
class SwiGlu(nn.Module):
    """Two layers whose outputs are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.gate, self.up = nn.Linear(16, 32, bias=False), nn.Linear(16, 32, bias=False)
        self.down, self.head = nn.Linear(32, 16, bias=False), nn.Linear(16, CLASSES)

    def forward(self, features: Tensor) -> Output:
        features = self.stem(features)
        return self.head(features + self.down(F.silu(self.gate(features)) * self.up(features)))


@specimen(VECTORS)
class Maxout(nn.Module):
    """A reshape spreads the channels of a layer over two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces, self.head = nn.Linear(8, 48), nn.Linear(16, CLASSES)

    def forward(self, features: Tensor) -> Output:
        return self.head(self.pieces(features).unflatten(1, (16, 3)).amax(2))


@specimen(VECTORS)
class SoftExperts(nn.Module):
    """A mixture of experts in which every expert computes."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES)) for _ in range(3)
        )
        self.router = nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Output:
        shares = self.router(features).softmax(1)
        answers = torch.stack([expert(features) for expert in self.experts], 1)
        return (shares.unsqueeze(2) * answers).sum(1)


@specimen(VECTORS, jumps=True)
class RoutedExperts(nn.Module):
    """A mixture of experts with routing to the best one."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(8, CLASSES) for _ in range(3))
        self.router = nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Output:
        best = self.router(features).argmax(1)
        answers = torch.stack([expert(features) for expert in self.experts], 1)
        return answers.gather(1, best.view(-1, 1, 1).expand(-1, 1, CLASSES)).squeeze(1)


@specimen(VECTORS)
class BilinearHead(nn.Module):
    """A weight of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 6), nn.Linear(8, 5)
        self.product = nn.Bilinear(6, 5, CLASSES)

    def forward(self, features: Tensor) -> Output:
        return self.product(self.left(features).relu(), self.right(features).relu())


@specimen(VECTORS)
class Einsum(nn.Module):
    """Weights of three dimensions in `einsum`, as in implementations of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Parameter(torch.zeros(4, 8, 6))
        self.head = nn.Linear(24, CLASSES)

    def forward(self, features: Tensor) -> Output:
        return self.head(torch.einsum("ni,hio->nho", features, self.heads).flatten(1).relu())


@specimen(VECTORS)
class PlainMatrices(nn.Module):
    """Weights `[in, out]` that no layer owns."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(8, 20))
        self.second = nn.Parameter(torch.zeros(20, CLASSES))

    def forward(self, features: Tensor) -> Output:
        return (features @ self.first).relu() @ self.second


@specimen(VECTORS)
class ReadWithoutCall(nn.Module):
    """Reads the weights of a layer instead of calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 24), nn.Linear(24, CLASSES)

    def forward(self, features: Tensor) -> Output:
        hidden = F.linear(features, self.body.weight, self.body.bias)
        return self.head(hidden.relu())


class Scaled(nn.Linear):
    """A Linear with a forward of its own."""

    def forward(self, input: Tensor) -> Output:
        return 0.5 * super().forward(input) + 1.0


@specimen(VECTORS)
def subclass_of_linear() -> nn.Module:
    return nn.Sequential(
        Scaled(8, 24), nn.ReLU(), Scaled(24, 16), nn.ReLU(), nn.Linear(16, CLASSES)
    )


@specimen(VECTORS)
class Rearranged(nn.Module):
    """Views, permutes, chunks and concatenations between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.middle, self.head = (
            nn.Linear(8, 24), nn.Linear(24, 24), nn.Linear(24, CLASSES),
        )  # fmt: skip

    def forward(self, features: Tensor) -> Output:
        first, second, third = self.body(features).relu().chunk(3, dim=1)
        joined = torch.cat([third, first, second.flip(1)], dim=1)
        mixed = self.middle(joined).view(-1, 4, 6).permute(0, 2, 1).reshape(-1, 24)
        return self.head(mixed.relu())


@specimen(VECTORS)
class Splits(nn.Module):
    """Parts of unequal sizes of one layer go to different layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 24)
        self.small, self.large = nn.Linear(8, CLASSES), nn.Linear(16, CLASSES)

    def forward(self, features: Tensor) -> Output:
        small, large = self.body(features).relu().split([8, 16], dim=1)
        return self.small(small) + self.large(large)


@specimen(VECTORS)
class ConcatenatedTwice(nn.Module):
    """The same output appears twice in a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.middle, self.head = (
            nn.Linear(8, 12), nn.Linear(24, 16), nn.Linear(16, CLASSES),
        )  # fmt: skip

    def forward(self, features: Tensor) -> Output:
        hidden = self.body(features).relu()
        return self.head(self.middle(torch.cat([hidden, hidden], 1)).relu())


@specimen(VECTORS)
class Cumulative(nn.Module):
    """Each channel depends on those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 24), nn.Linear(24, CLASSES)

    def forward(self, features: Tensor) -> Output:
        return self.head(self.body(features).relu().cumsum(1))


@specimen(VECTORS)
class SoftmaxBetween(nn.Module):
    """A softmax over the channels of a layer, and an embedding of unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.middle, self.head = (
            nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, CLASSES),
        )  # fmt: skip

    def forward(self, features: Tensor) -> Output:
        shares = self.body(features).softmax(1)
        return self.head(F.normalize(self.middle(shares), dim=1)).log_softmax(1)


@specimen(VECTORS)
class InPlace(nn.Module):
    """Operations that overwrite their inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.middle, self.head = (
            nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, CLASSES),
        )  # fmt: skip

    def forward(self, features: Tensor) -> Output:
        hidden = self.body(features)
        hidden.relu_().add_(0.5)
        hidden[:, ::4] = 0.0
        hidden = self.middle(hidden)
        return self.head(hidden.mul_(hidden.sigmoid()))

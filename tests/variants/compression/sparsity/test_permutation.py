from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.variants import tiny, tiny_conv
from variants.compression.sparsity.layers import find_layers
from variants.compression.sparsity.permutation import LayerPair, find_layer_pairs, permute


class Residual(nn.Module):
    """A residual block: adds the input to the output of an inner sequence."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, 12, 3, padding=1, bias=False),
            nn.Sequential(nn.BatchNorm2d(12), nn.ReLU()),
            nn.Conv2d(12, channels, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = features + self.inner(features)
        return result


def _convolutional() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 4),
        )  # fmt: skip
        for module in network:
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return network.eval()


def _pairs(network: nn.Module) -> list[LayerPair]:
    return list(find_layer_pairs(network, find_layers(network)[0]).values())


def test_pairs_of_a_sequence_are_found() -> None:
    assert _pairs(tiny.network()) == [LayerPair("0", "2", ()), LayerPair("2", "4", ())]
    assert _pairs(_convolutional()) == [
        LayerPair("0", "4", ("1",)),
        LayerPair("4", "8", ()),
        LayerPair("8", "11", ("9",)),
    ]


def test_in_a_residual_block_only_the_inner_channels_can_be_reordered() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), Residual(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    assert _pairs(network) == [LayerPair("1.inner.0", "1.inner.2", ("1.inner.1.0",))]


class Twice(nn.Sequential):
    """A sequence whose forward does more than call its modules."""

    def forward(self, features: Tensor) -> Tensor:
        first: Tensor = self[0](features)
        for module in self:
            features = module(features)
        return first + features


_SHARED = nn.Linear(8, 8)


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(tiny_conv.network(), id="no sequence"),
        pytest.param(
            nn.Sequential(nn.Linear(8, 8), nn.Softmax(-1), nn.Linear(8, 4)),
            id="softmax mixes channels",
        ),
        pytest.param(
            nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4)), id="layer norm"
        ),
        pytest.param(nn.Sequential(_SHARED, nn.ReLU(), _SHARED), id="the same layer twice"),
        pytest.param(
            nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=2)), id="grouped reader"
        ),
        pytest.param(
            nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 8, 3)), id="grouped writer"
        ),
        pytest.param(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 4)),
            id="flattened positions",
        ),
        pytest.param(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 8)), id="channels as width"),
        pytest.param(nn.Sequential(nn.Linear(8, 8), nn.Conv2d(8, 4, 1)), id="width as channels"),
        pytest.param(Twice(nn.Linear(8, 8), nn.Linear(8, 8)), id="a forward of its own"),
    ],
)
def test_coupled_channels_are_not_reordered(network: nn.Module) -> None:
    assert _pairs(network) == []


@pytest.mark.parametrize("number", range(3))
def test_reordering_does_not_change_outputs(number: int) -> None:
    network = _convolutional()
    images = torch.randn(5, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    pair = _pairs(network)[number]
    reader = network.get_parameter(f"{pair.reader}.weight")
    before, weight = network(images).detach(), reader.detach().clone()
    order = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(2))
    permute(network, {}, pair, order)
    assert torch.equal(reader, weight[:, order])
    torch.testing.assert_close(network(images), before, rtol=1e-4, atol=1e-5)


def test_masks_are_reordered_with_their_channels() -> None:
    network = _convolutional()
    mask = torch.rand(8, 3, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    bias = torch.arange(8) < 4
    other = torch.ones(4, 12, dtype=torch.bool)
    with torch.no_grad():
        network.get_parameter("0.weight").mul_(mask)
    order = torch.tensor([7, 2, 0, 1, 5, 6, 3, 4])
    masks = {"0.weight": mask, "1.bias": bias, "11.weight": other}
    reordered = permute(network, masks, LayerPair("0", "4", ("1",)), order)
    assert torch.equal(network.get_parameter("0.weight") != 0, reordered["0.weight"])
    assert torch.equal(reordered["1.bias"], bias[order])
    assert reordered["11.weight"] is other
    assert torch.equal(masks["0.weight"], mask)

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from variants.compression.sparsity.layers import (
    SparsifiableLayer,
    count_groups,
    find_layers,
    mask_layers,
    to_matrix,
    to_weight,
    unfold_inputs,
    unmasked_weights,
)

LAYERS = [
    pytest.param(nn.Linear(6, 4, bias=False), (5, 6), id="linear"),
    pytest.param(nn.Linear(6, 4, bias=False), (5, 3, 6), id="linear over tokens"),
    pytest.param(nn.Conv2d(4, 6, 3, bias=False), (2, 4, 7, 6), id="conv"),
    pytest.param(
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), bias=False),
        (2, 4, 7, 8),
        id="conv with stride, padding and dilation",
    ),
    pytest.param(nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 6, 6), id="grouped conv"),
    pytest.param(nn.Conv2d(4, 4, 3, groups=4, bias=False), (2, 4, 6, 6), id="depthwise conv"),
    pytest.param(nn.Conv2d(4, 6, (3, 5), padding="same", bias=False), (2, 4, 6, 6), id="same"),
    pytest.param(
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", bias=False),
        (2, 4, 6, 6),
        id="reflected border",
    ),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_the_matrix_times_the_unfolded_inputs_equals_the_layer(
    layer: SparsifiableLayer, shape: tuple[int, ...]
) -> None:
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = layer(inputs).detach()
    columns = torch.cat(list(unfold_inputs(layer, inputs)), dim=1)
    rows = to_matrix(layer.weight.detach()).chunk(count_groups(layer))
    products = [part @ matrix.T for part, matrix in zip(columns, rows, strict=True)]
    computed = torch.cat(products, dim=1)  # [n, out]
    if isinstance(layer, nn.Conv2d):
        expected = expected.movedim(1, -1)
    torch.testing.assert_close(computed, expected.reshape(computed.shape))


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_to_weight_inverts_to_matrix(layer: SparsifiableLayer, shape: tuple[int, ...]) -> None:
    back = to_weight(to_matrix(layer.weight), layer)
    assert torch.equal(back, layer.weight)
    assert back.is_contiguous()


def test_neighbouring_columns_of_a_convolution_are_neighbouring_channels() -> None:
    weight = torch.arange(2 * 8 * 3 * 3).reshape(2, 8, 3, 3)
    assert torch.equal(to_matrix(weight)[1, :8], weight[1, :, 0, 0])
    assert torch.equal(to_matrix(weight)[0, 16:24], weight[0, :, 0, 2])


def test_large_images_are_unfolded_in_parts() -> None:
    conv, images = nn.Conv2d(1, 1, 3, padding=1), torch.ones(8, 1, 512, 512)
    parts = [part.shape for part in unfold_inputs(conv, images)]
    assert parts == [(1, 7 * 512 * 512, 9), (1, 512 * 512, 9)]


class Mixed(nn.Module):
    """Layers of several kinds, a weight that is used twice, and a weight that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.encoder = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
        self.conv = nn.Conv2d(1, 2, 3)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.head = nn.Linear(8, 10)
        self.head.weight = self.embedding.weight


def test_every_linear_and_convolution_is_found_except_shared_and_computed_weights() -> None:
    layers, notes = find_layers(Mixed())
    assert list(layers) == ["encoder.0", "encoder.2", "conv"]
    assert notes == [
        "layer normed stays dense: its weight is shared with another layer or computed",
        "layer head stays dense: its weight is shared with another layer or computed",
    ]


def test_two_layers_that_share_a_weight_are_both_skipped() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    assert find_layers(network)[0] == {}


def test_a_layer_that_is_registered_twice_is_found_once() -> None:
    linear = nn.Linear(4, 4)
    layers, notes = find_layers(nn.Sequential(linear, nn.ReLU(), linear))
    assert (list(layers), notes) == (["0"], [])


def test_layers_are_excluded_by_patterns_of_names() -> None:
    layers, _ = find_layers(Mixed(), ("encoder.*", "head"))
    assert list(layers) == ["conv"]
    with pytest.raises(ValueError, match=r"'encode' matches no layer; the layers are encoder\.0, "):
        find_layers(Mixed(), ("encode",))


def test_masking_sets_weights_to_zero_and_allows_the_others() -> None:
    network = nn.Sequential(nn.Linear(4, 2), nn.Conv2d(2, 3, 2))
    layers, _ = find_layers(network)
    before = network.get_parameter("1.weight").detach().clone()
    kept = {"1": torch.rand(3, 8, generator=torch.Generator().manual_seed(0)) < 0.5}
    masks = mask_layers(layers, kept)
    assert list(masks) == ["1.weight"]
    mask: Tensor = masks["1.weight"]
    assert mask.shape == (3, 2, 2, 2)
    assert torch.equal(layers["1"].weight, torch.where(mask, before, 0.0))
    unmasked = unmasked_weights(layers, masks)
    assert torch.equal(unmasked["1"], kept["1"])
    assert unmasked["0"].all()

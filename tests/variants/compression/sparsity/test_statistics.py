from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.small import quiet
from tests.variants import tiny, tiny_conv, two_inputs
from variants.compression.sparsity.layers import find_layers
from variants.compression.sparsity.statistics import (
    count_calls,
    draw_samples,
    measure_hessian,
    measure_input_magnitudes,
    measure_weight_gradients,
)
from variants.model.dataset import Split
from variants.model.forward import scores, tensors

SPLIT = tiny.split(1100)
"""More than two batches; the last is not full."""


def _inputs_of(network: nn.Sequential, layer: int) -> Tensor:
    """Return the inputs of a layer of a sequential network, FP64."""
    with torch.inference_mode():
        inputs: Tensor = network[:layer](*tensors(SPLIT.samples))
    return inputs.double()


def test_input_magnitudes_include_all_samples() -> None:
    network = tiny.network()
    statistics = measure_input_magnitudes(network, find_layers(network)[0], SPLIT.samples, quiet())
    assert list(statistics) == ["0", "2", "4"]
    for name, magnitudes in statistics.items():
        inputs = _inputs_of(network, int(name))
        assert magnitudes.number == len(inputs) == 1100
        torch.testing.assert_close(magnitudes.mean[0], inputs.abs().mean(dim=0), rtol=1e-6, atol=0)
        torch.testing.assert_close(magnitudes.norm[0], inputs.norm(dim=0), rtol=1e-6, atol=0)


def test_input_magnitudes_of_a_convolution_include_every_kernel_position() -> None:
    network, split = tiny_conv.network(), tiny_conv.split(40)
    layers = {"stem": network.stem}
    magnitudes = measure_input_magnitudes(network, layers, split.samples, quiet())["stem"]
    images = split.samples["input"].astype(np.float64)
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    side = tiny_conv.SIDE
    squares = [
        (padded[:, channel, high : high + side, wide : wide + side] ** 2).sum()
        for high in range(3)
        for wide in range(3)
        for channel in range(tiny_conv.COLOURS)
    ]
    assert magnitudes.number == 40 * side * side
    np.testing.assert_allclose(magnitudes.squares[0].numpy(), squares, rtol=1e-5)


def test_input_magnitudes_include_every_token() -> None:
    embedding, linear = nn.Embedding(5, 4), nn.Linear(4, 2)
    ids = np.array([[0, 1, 2], [3, 4, 4]])
    network = nn.Sequential(embedding, linear)
    statistics = measure_input_magnitudes(network, {"1": linear}, {"ids": ids}, quiet())
    vectors = embedding.weight.detach().double()[ids.ravel()]
    assert statistics["1"].number == 6
    torch.testing.assert_close(statistics["1"].norm[0], vectors.norm(dim=0))


def test_the_hessian_is_the_mean_product_of_inputs() -> None:
    network = tiny.network()
    layer = network[2]
    assert isinstance(layer, nn.Linear)
    hessian = measure_hessian(network, layer, 1, SPLIT.samples, quiet())
    inputs = _inputs_of(network, 2)
    expected = inputs.T @ inputs / len(inputs)
    torch.testing.assert_close(hessian, expected[None], rtol=1e-5, atol=1e-6)


def test_a_grouped_convolution_has_a_hessian_for_each_group() -> None:
    conv = nn.Conv2d(4, 4, 1, groups=2)
    images = np.random.default_rng(0).standard_normal((6, 4, 3, 3)).astype(np.float32)
    hessian = measure_hessian(nn.Sequential(conv), conv, 1, {"input": images}, quiet())
    pixels = torch.from_numpy(images).movedim(1, -1).reshape(-1, 4).double()
    expected = torch.stack([part.T @ part / len(part) for part in pixels.chunk(2, dim=1)])
    torch.testing.assert_close(hessian, expected, rtol=1e-5, atol=1e-6)


class Backwards(nn.Module):
    """Registers its layers in another order than it calls them, and calls one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.first = nn.Linear(4, 4)

    def forward(self, features: Tensor) -> Tensor:
        features = self.first(input=self.first(features))
        attended, _ = self.attention(features, features, features)
        logits: Tensor = self.last(attended.mean(dim=1))
        return logits


def test_calls_are_counted_in_order_and_unobservable_layers_are_missing() -> None:
    network = Backwards().eval()
    samples = {"input": np.ones((3, 5, 4), np.float32)}
    layers, _ = find_layers(network)
    assert "attention.out_proj" in layers
    assert list(count_calls(network, layers, samples).items()) == [("first", 2), ("last", 1)]
    assert measure_input_magnitudes(network, layers, samples, quiet())["first"].number == 2 * 15


def test_a_pass_for_a_hessian_stops_at_the_last_call_of_the_layer() -> None:
    network = Backwards().eval()
    called: list[str] = []
    network.first.register_forward_hook(lambda *_: called.append("first"))
    network.attention.register_forward_pre_hook(lambda *_: called.append("attention"))
    samples = {"input": np.ones((3, 5, 4), np.float32)}
    measure_hessian(network, network.first, 2, samples, quiet())
    assert called == ["first"]  # the second call was observed, but not computed


def test_no_hooks_or_gradients_remain_on_the_network() -> None:
    network = tiny.network()
    layers, _ = find_layers(network)
    measure_input_magnitudes(network, layers, SPLIT.samples, quiet())
    measure_hessian(network, layers["2"], 1, SPLIT.samples, quiet())
    measure_weight_gradients(network, layers, SPLIT.part(0, 40), quiet())
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


def _gradients(network: nn.Module, split: Split) -> dict[str, Tensor]:
    network = copy.deepcopy(network)
    loss = F.cross_entropy(scores(network, tensors(split.samples)), torch.from_numpy(split.labels))
    loss.backward()  # type: ignore[no-untyped-call]
    return {
        name: parameter.grad
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("module", [tiny, tiny_conv, two_inputs])
def test_weight_gradients_are_averaged_over_small_batches(module: object) -> None:
    network: nn.Module = module.network()  # type: ignore[attr-defined]
    split: Split = module.split(50)  # type: ignore[attr-defined]
    layers, _ = find_layers(network)
    statistics = measure_weight_gradients(network, layers, split, quiet())
    first, second = (_gradients(network, part) for part in (split.part(0, 32), split.part(32, 50)))
    for name, layer in layers.items():
        one, other = first[f"{name}.weight"], second[f"{name}.weight"]
        weight = layer.weight.detach().abs()
        torch.testing.assert_close(statistics[name].gradient, (one.abs() + other.abs()) / 2)
        taylor = (one.abs() + other.abs()) / 2 * weight
        torch.testing.assert_close(statistics[name].taylor, taylor)


def test_samples_are_drawn_by_seed() -> None:
    drawn = [draw_samples(SPLIT, 20, seed) for seed in (0, 0, 1)]
    inputs = [split.samples["input"] for split in drawn]
    assert [len(split) for split in drawn] == [20, 20, 20]
    np.testing.assert_array_equal(inputs[0], inputs[1])
    assert not np.array_equal(inputs[0], inputs[2])
    np.testing.assert_array_equal(inputs[0][:, : tiny.CLASSES].argmax(1), drawn[0].labels)
    assert len(draw_samples(SPLIT, 5000, 0)) == len(SPLIT)

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from tests.small import quiet
from tests.variants import tiny, tiny_conv, two_inputs
from variants.compression.quantization.fake import (
    Grid,
    read_grids,
    round_weight,
    simulate_quantization,
)
from variants.compression.quantization.writing import WeightFormat
from variants.compression.techniques.int8 import Int8
from variants.model.forward import all_scores
from variants.runtime.onnx import OnnxRunner


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("reduce_range", [True, False])
@pytest.mark.parametrize("model", [tiny, two_inputs], ids=["dense", "text"])
def test_the_network_computes_the_same_as_its_dynamic_graph(
    model: ModuleType, per_channel: bool, reduce_range: bool
) -> None:
    original, samples = model.state(), model.split(24, seed=9).samples
    technique = Int8(mode="dynamic", per_channel=per_channel, reduce_range=reduce_range)
    quantized = technique.apply(original, model.datasets().training_data, quiet())
    assert quantized.graph is not None
    expected = OnnxRunner(quantized.graph, threads=1)(samples)["logits"]
    before = all_scores(original.network, samples).numpy()
    with technique.simulate(original.network, quantized):
        assert all_scores(original.network, samples).numpy() == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(all_scores(original.network, samples).numpy(), before)
    assert np.abs(before - expected).max() > 1e-4


@pytest.mark.parametrize(
    ("model", "closer"), [(two_inputs, 10), (tiny_conv, 1.2)], ids=["text", "conv"]
)
def test_the_network_computes_nearly_the_same_as_its_static_graph(
    model: ModuleType, closer: float
) -> None:
    original, samples = model.state(), model.split(100, seed=9).samples
    technique = Int8()
    quantized = technique.apply(original, model.datasets().training_data, quiet())
    assert quantized.graph is not None
    expected = OnnxRunner(quantized.graph, threads=1)(samples)["logits"]
    before = all_scores(original.network, samples).numpy()
    with technique.simulate(original.network, quantized):
        during = all_scores(original.network, samples).numpy()
    assert np.abs(during - expected).mean() * closer < np.abs(before - expected).mean()


def test_the_grids_are_those_of_the_calibrated_ranges() -> None:
    data = two_inputs.datasets().training_data
    original = two_inputs.state()
    inputs = []
    hook = original.network.get_submodule("head").register_forward_pre_hook(
        lambda module, arguments: inputs.append(float(arguments[0].max()))
    )
    all_scores(original.network, data.validation.samples)
    hook.remove()
    quantized = Int8(samples=120, exclude=("hidden",)).apply(original, data, quiet())
    assert quantized.graph is not None
    grids = read_grids(quantized.graph)
    assert grids.keys() == {"embedding", "head"}
    assert grids["embedding"] is None
    assert grids["head"] is not None
    assert grids["head"].scale == pytest.approx(max(inputs) / 255, rel=1e-4)
    assert grids["head"].zero_point == 0


def test_gradients_pass_where_an_input_is_inside_its_range() -> None:
    linear = torch.nn.Linear(4, 1, bias=False)
    inputs = torch.tensor([[-3.0, 0.0, 1.9, 5.0]], requires_grad=True)
    with simulate_quantization(
        torch.nn.Sequential(linear), {"0": Grid(2 / 255, 0)}, WeightFormat(True, False)
    ):
        linear(inputs).sum().backward()
    rounded = round_weight(linear.weight, WeightFormat(True, False))[0].tolist()
    assert inputs.grad is not None
    assert inputs.grad[0].tolist() == [0.0, rounded[1], rounded[2], 0.0]
    assert linear.weight.grad is not None
    assert linear.weight.grad[0].tolist() == pytest.approx([0.0, 0.0, 1.9, 2.0], abs=1 / 255)


@pytest.mark.parametrize("reduce_range", [True, False])
def test_weights_have_as_many_values_as_their_bits_allow(reduce_range: bool) -> None:
    weight = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    largest = 64 if reduce_range else 127
    steps = weight.abs().amax(1, keepdim=True) / largest
    rounded = round_weight(weight, WeightFormat(True, reduce_range)) / steps
    assert torch.allclose(rounded, rounded.round(), atol=1e-4)
    assert rounded.abs().amax(1).tolist() == pytest.approx([largest] * 3)
    whole = round_weight(weight, WeightFormat(False, reduce_range)) / (weight.abs().max() / largest)
    assert torch.allclose(whole, whole.round(), atol=1e-4)

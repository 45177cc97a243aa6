from __future__ import annotations

import copy
import logging
import re
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from tests.variants import tiny
from tests.variants.runtime.sparse.layers import sparse_linear
from variants.catalog.kernels import DENSE, KernelTable
from variants.runtime.linear24 import mask24
from variants.runtime.plan import Plan, make_plan, restore
from variants.runtime.sparse.dispatch import measure_kernels
from variants.runtime.sparse.linear import SparseLinear
from variants.runtime.sparse.network import describe_layers, sparse_layers, use_kernels

pytestmark = pytest.mark.usefixtures("each_library")

SAMPLES = tiny.split(20).samples


def _masked() -> nn.Sequential:
    network = tiny.network()
    with torch.no_grad():
        for index in (0, 2):
            layer = network[index]
            assert isinstance(layer, nn.Linear)
            layer.weight.mul_(mask24(layer.weight))
    return network


def _stored(
    network: nn.Module, *packed: str, quantized: tuple[str, ...] = ()
) -> tuple[nn.Module, Plan, dict[str, torch.Tensor]]:
    plan, tensors = make_plan(network, packed, quantized=quantized)
    stored = safetensors.torch.load(safetensors.torch.save(tensors))
    return restore(copy.deepcopy(network), plan, stored), plan, stored


def _sparse(table: KernelTable) -> KernelTable:
    """Return the table with a sparse kernel for each layer, whatever was faster."""
    layers = {
        name: layer.model_copy(
            update={
                "choices": tuple(c.model_copy(update={"kernel": "rows"}) for c in layer.choices)
            }
        )
        for name, layer in table.layers.items()
    }
    return table.model_copy(update={"layers": layers})


def test_sparse_layers_are_replaced_and_relus_are_fused() -> None:
    masked = _masked()
    network, plan, stored = _stored(masked, "0", "2")
    layers = sparse_layers(network, plan, stored)
    use_kernels(network, layers, _sparse(measure_kernels(layers, seconds=0)))
    first, second = network.get_submodule("0"), network.get_submodule("2")
    assert isinstance(first, SparseLinear)
    assert isinstance(second, SparseLinear)
    assert (first.activation, second.activation) == ("relu", "none")  # a GELU follows the second
    assert isinstance(network.get_submodule("1"), nn.Identity)
    torch.testing.assert_close(
        torch.from_numpy(tiny.answers(network, SAMPLES)),
        torch.from_numpy(tiny.answers(masked, SAMPLES)),
    )


def test_int8_layers_restore_their_rounded_weights() -> None:
    masked = _masked()
    network, plan, stored = _stored(masked, "0", "2", quantized=("0",))
    assert {name: layer.kind for name, layer in plan.layers.items()} == {
        "0": "linear-2:4-int8",
        "2": "linear-2:4",
    }
    assert stored["0.values"].dtype == torch.int8
    weight, exact = network.get_parameter("0.weight"), masked.get_parameter("0.weight")
    steps = exact.abs().amax(dim=1, keepdim=True) / 127
    assert (weight - exact).abs().le(0.5001 * steps).all()
    assert not torch.equal(weight, exact)
    layers = sparse_layers(network, plan, stored)
    use_kernels(network, layers, None)
    answers = tiny.answers(network, SAMPLES)
    assert abs(answers - tiny.answers(masked, SAMPLES)).max() < 0.05


def test_layers_with_zeros_anywhere_are_stored_by_column() -> None:
    network = nn.Sequential(sparse_linear("linear-sparse"), nn.ReLU()).eval()
    rebuilt, plan, stored = _stored(network, "0")
    assert plan.layers["0"].kind == "linear-sparse"
    assert stored["0.offsets"].dtype == torch.uint16
    assert torch.equal(rebuilt.get_parameter("0.weight"), network.get_parameter("0.weight"))


def test_relus_in_other_modules_are_not_fused() -> None:
    class Reversed(nn.Sequential):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            for module in reversed(list(self)):
                features = module(features)
            return features

    plan, _ = make_plan(Reversed(sparse_linear("linear-2:4"), nn.ReLU()), ("0",))
    assert plan.layers["0"].activation == "none"


def test_a_plan_that_fuses_a_missing_relu_is_rejected() -> None:
    network, plan, stored = _stored(_masked(), "0")
    layers = sparse_layers(network, plan, stored)
    network.set_submodule("1", nn.Tanh())
    with pytest.raises(ValueError, match="fuses layer '0' with a ReLU, the network has none"):
        use_kernels(network, layers, None)


@pytest.mark.parametrize("change", ["instruction set", "layer", "shape", "kernel"])
def test_a_table_that_does_not_fit_is_measured_again_with_a_warning(
    change: str, caplog: pytest.LogCaptureFixture
) -> None:
    masked = _masked()
    network, plan, stored = _stored(masked, "0", "2")
    layers = sparse_layers(network, plan, stored)
    table = measure_kernels(layers, seconds=0)
    first = table.layers["0"]
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "instruction set": ({"instruction_set": "other"}, "the instruction set 'other'"),
        "layer": ({"layers": {"2": table.layers["2"]}}, "has no layer 0"),
        "shape": (
            {"layers": {**table.layers, "0": first.model_copy(update={"shape": (3, 4)})}},
            r"layer 0 as linear-2:4 \[3, 4\], not \(16, 8\)",
        ),
        "kernel": (
            {
                "layers": {
                    **table.layers,
                    "0": first.model_copy(
                        update={
                            "choices": (first.choices[0].model_copy(update={"kernel": "magic"}),)
                        }
                    ),
                }
            },
            "unknown kernel magic of layer 0",
        ),
    }
    changed, message = cases[change]
    with caplog.at_level(logging.WARNING):
        used = use_kernels(network, layers, table.model_copy(update=changed))
    assert re.search(message, caplog.text)
    assert "measured again" in caplog.text
    assert used.layers["0"].shape == (16, 8)
    torch.testing.assert_close(
        torch.from_numpy(tiny.answers(network, SAMPLES)),
        torch.from_numpy(tiny.answers(masked, SAMPLES)),
    )


def test_dense_layers_are_listed_with_the_reason() -> None:
    masked = _masked().append(nn.Unflatten(1, (3, 1, 1))).append(nn.Conv2d(3, 4, 1)).eval()
    network, plan, stored = _stored(masked, "0")
    described = describe_layers(network, measure_kernels(sparse_layers(network, plan, stored)))
    assert [*described.layers] == ["0", "2", "4", "6"]
    assert (
        described.layers["2"].reason
        == "the recipe did not mask it, or the network does not call it"
    )
    assert described.layers["4"].reason == "0% zeros are fewer than 70% and not 2:4"
    assert described.layers["6"].reason == "convolutions have no sparse kernel"
    assert described.layers["6"].kind == DENSE

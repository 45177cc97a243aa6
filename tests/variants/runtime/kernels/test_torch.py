"""The operators inside torch: its checks of operators, torch.export, and torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.variants.runtime.kernels import weights
from variants.runtime.kernels import operators
from variants.runtime.kernels.bound import BoundOperator
from variants.runtime.kernels.packing import (
    pack24,
    pack24_int8,
    pack_dense,
    pack_dense_int8,
    pack_sparse,
)


def arguments() -> dict[str, tuple[Any, ...]]:
    """Return arguments of each operator."""
    weight, features, bias = weights.sparse24(40, 64), weights.features(3, 64), torch.ones(40)
    int8 = pack24_int8(*weights.quantized24(40, 64))
    dense_int8 = pack_dense_int8(*weights.quantized24(40, 64))
    return {
        "linear24": (features, *pack24(weight), bias, 40, "relu", "rows"),
        "linear24_int8": (features, *int8, bias, 40),
        "linear_sparse": (features, *pack_sparse(weight), None, "none", "panel"),
        "linear_packed": (features, pack_dense(weight), None, 40),
        "linear_packed_int8": (features, *dense_int8, None, 40, "none", "rows"),
    }


@pytest.mark.parametrize("name", operators.ALGORITHMS)
def test_torch_accepts_the_operator(name: str) -> None:
    operator = getattr(torch.ops.paretoserve, name).default
    results = torch.library.opcheck(operator, arguments()[name])
    assert set(results.values()) == {"SUCCESS"}


class Layer(nn.Module):
    values: Tensor
    indices: Tensor

    def __init__(self) -> None:
        super().__init__()
        values, indices = pack24(weights.sparse24(40, 64))
        self.register_buffer("values", values)
        self.register_buffer("indices", indices)

    def forward(self, features: Tensor) -> Tensor:
        return operators.linear24(features, self.values, self.indices, None, 40, "relu")


def test_an_exported_module_keeps_the_operator_for_any_number_of_rows() -> None:
    layer = Layer()
    rows = torch.export.Dim("rows", min=1, max=1024)
    exported = torch.export.export(
        layer, (weights.features(3, 64),), dynamic_shapes={"features": {0: rows}}
    )
    assert torch.ops.paretoserve.linear24.default in {node.target for node in exported.graph.nodes}
    features = weights.features(7, 64)
    assert torch.equal(exported.module()(features), layer(features))


@pytest.mark.slow
def test_a_compiled_module_gives_the_same() -> None:
    layer = Layer()
    compiled: Callable[[Tensor], Tensor] = torch.compile(layer, backend="aot_eager", fullgraph=True)
    features = weights.features(5, 64)
    assert torch.equal(compiled(features), layer(features))


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for it
    """Lists the operators that torch dispatches."""

    def __init__(self, seen: list[object]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.seen = seen

    def __torch_dispatch__(
        self, func: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> object:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", operators.ALGORITHMS)
def test_a_call_with_plain_tensors_skips_the_dispatcher(name: str) -> None:
    call, packed = getattr(operators, name), arguments()[name]
    seen: list[object] = []
    with Recorder(seen):
        result = call(*packed)
    operator = getattr(torch.ops.paretoserve, name).default
    assert operator not in seen
    assert torch.equal(result, operator(*packed))


WEIGHTS: Final = {
    "linear24": pack24(weights.sparse24(40, 64)),
    "linear24_int8": pack24_int8(*weights.quantized24(40, 64)),
    "linear_sparse": pack_sparse(weights.sparse24(40, 64)),
    "linear_packed": (pack_dense(weights.sparse24(40, 64)),),
    "linear_packed_int8": pack_dense_int8(*weights.quantized24(40, 64)),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_an_operator_with_a_bound_weight_is_the_same(name: str) -> None:
    weight, features, bias = WEIGHTS[name], weights.features(3, 64), torch.ones(40)
    out = () if name == "linear_sparse" else (40,)
    for algorithm in operators.ALGORITHMS[name]:
        kernel = BoundOperator(name, tuple(weight), 64, 40, algorithm)
        expected = getattr(operators, name)(features, *weight, bias, *out, "relu", algorithm)
        assert torch.equal(kernel(features, bias, "relu"), expected)


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_weight_is_checked_when_it_is_bound_and_the_features_at_each_call(name: str) -> None:
    weight = tuple(WEIGHTS[name])
    with pytest.raises(ValueError, match="expected contiguous"):
        BoundOperator(name, (weight[0][:0], *weight[1:]), 64, 40, "auto")
    kernel = BoundOperator(name, weight, 64, 40, "auto")
    for features in (torch.ones(3, 32), torch.ones(64), torch.ones(3, 64, dtype=torch.float64)):
        with pytest.raises(ValueError, match="expected"):
            kernel(features, None, "none")
    with pytest.raises(ValueError, match="expected contiguous bias"):
        kernel(weights.features(3, 64), torch.ones(39), "none")

"""Chains of layers: each kind of step, and what they refuse."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.variants.runtime.kernels import weights
from tests.variants.runtime.kernels.conftest import TORCH
from tests.variants.runtime.kernels.test_torch import WEIGHTS
from variants.runtime.kernels import library
from variants.runtime.kernels.bound import BoundOperator
from variants.runtime.kernels.chain import Chain, Elementwise, Operation, Product
from variants.runtime.kernels.packing import pack_dense

pytestmark = pytest.mark.skipif(not library.is_compiled(), reason=library.missing_reason())

ROWS: Final = (0, 1, 3, 33)


def _bound(name: str, algorithm: str = "auto") -> BoundOperator:
    return BoundOperator(name, tuple(WEIGHTS[name]), 64, 40, algorithm)


def _dense(inputs: int, outputs: int) -> BoundOperator:
    packed = (pack_dense(weights.dense(outputs, inputs)),)
    return BoundOperator("linear_packed", packed, inputs, outputs, "auto")


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("threads", [1, 3])
def test_layers_have_the_bits_of_the_operators(
    implementation: str, name: str, activation: str, threads: int
) -> None:
    if implementation == TORCH:
        pytest.skip("a chain needs the compiled library")
    first, last, bias = _bound(name), _dense(40, 7), torch.linspace(-1, 1, 40)
    chain = Chain(
        [Product(first, bias, activation), Product(last, None, "none")], 64, threads=threads
    )
    for rows in ROWS:
        features = weights.features(rows, 64)
        expected = last(first(features, bias, activation), None, "none")
        assert np.array_equal(chain(features.numpy()), expected.numpy())


OPERATIONS: Final[dict[Operation, torch.Tensor]] = {
    "add": weights.features(5, 64) + 0.286,
    "subtract": weights.features(5, 64) - 0.286,
    "multiply": weights.features(5, 64) * 0.353,
    "divide": weights.features(5, 64) / 0.353,
    "relu": weights.features(5, 64).relu(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_elementwise_operations_have_the_bits_of_torch(operation: Operation) -> None:
    scalar = 0.286 if operation in ("add", "subtract") else 0.353
    chain = Chain([Elementwise(operation, scalar)], 64, threads=1)
    result = chain(weights.features(5, 64).numpy())
    assert np.array_equal(result, OPERATIONS[operation].numpy())


def test_many_steps_alternate_between_two_buffers() -> None:
    steps: list[Product | Elementwise] = [
        Elementwise("add", 1.0),
        Product(_dense(64, 200), None, "none"),
        Product(_dense(200, 3), None, "relu"),
        Elementwise("multiply", 2.0),
    ]
    features = weights.features(9, 64)
    expected = (features + 1) @ weights.dense(200, 64).T @ weights.dense(3, 200).T
    result = torch.from_numpy(Chain(steps, 64, threads=1)(features.numpy()))
    torch.testing.assert_close(result, 2 * expected.relu(), atol=1e-2, rtol=1e-4)


def test_nan_and_infinity_pass_through_relu() -> None:
    features = np.array([[np.nan, np.inf, -np.inf, -1.0]], np.float32)
    result = Chain([Elementwise("relu")], 4, threads=1)(features)
    assert np.array_equal(result, [[np.nan, np.inf, 0, 0]], equal_nan=True)


def test_a_chain_keeps_its_weights_alive() -> None:
    chain = Chain([Product(_dense(64, 40), None, "none")], 64, threads=1)
    features = weights.features(2, 64)
    before = chain(features.numpy())
    del before
    torch.full((40, 64), float("nan"))  # would take the memory of a freed weight
    assert np.isfinite(chain(features.numpy())).all()


@pytest.mark.parametrize(
    "features",
    [
        np.zeros((2, 63), np.float32),
        np.zeros((2, 64), np.float64),
        np.zeros((64, 2), np.float32).T,
        np.zeros(64, np.float32),
    ],
)
def test_other_features_are_rejected(features: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"expected contiguous features FP32 \[rows, 64\]"):
        Chain([Elementwise("relu")], 64, threads=1)(features)


def test_layers_must_fit_each_other() -> None:
    with pytest.raises(ValueError, match="a layer with 64 inputs follows 40 features"):
        Chain([Product(_dense(64, 40), None, "none")] * 2, 64, threads=1)
    with pytest.raises(ValueError, match="at least one step"):
        Chain([], 64, threads=1)

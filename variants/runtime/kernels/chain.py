"""Runs the layers of a network in one call of the compiled library, without torch.

features [rows, in] ─▶ step ─▶ ... ─▶ step ─▶ result [rows, out]

Between two layers, torch and Python take 10 to 60 us. That is longer than a small layer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from variants.runtime.kernels import compiled
from variants.runtime.kernels.bound import BoundOperator

Operation: TypeAlias = Literal["add", "subtract", "multiply", "divide", "relu"]

_KINDS: Final = (
    "linear_packed",
    "linear_packed_int8",
    "linear24",
    "linear24_int8",
    "linear_sparse",
    "add",
    "subtract",
    "multiply",
    "divide",
    "relu",
)
"""In the order of `source/chain.cpp`."""


@dataclass(frozen=True)
class Product:
    """`activation(features @ weight.T + bias)`."""

    kernel: BoundOperator
    bias: Tensor | None
    """FP32 `[out]`, contiguous."""
    activation: str
    """`none` or `relu`."""


@dataclass(frozen=True)
class Elementwise:
    """An operation on each feature and a scalar, which `relu` ignores."""

    operation: Operation
    scalar: float = 0.0


class Chain:
    """Steps that are computed one after another; keeps their tensors alive."""

    def __init__(
        self, steps: Sequence[Product | Elementwise], inputs: int, *, threads: int
    ) -> None:
        """Raises `ValueError` if there is no step, or one does not take what the last returns."""
        if not steps:
            raise ValueError("a chain needs at least one step")
        self.inputs = self.outputs = inputs
        self._steps = tuple(steps)
        self._threads = threads
        self._array = (_Step * len(steps))()
        for entry, step in zip(self._array, steps, strict=True):
            if isinstance(step, Product):
                if step.kernel.inputs != self.outputs:
                    raise ValueError(
                        f"a layer with {step.kernel.inputs} inputs follows {self.outputs} features"
                    )
                self.outputs = step.kernel.outputs
            _fill(entry, step, self.outputs)
        self._function, self._instruction_set = compiled.chain()

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map features FP32 `[rows, inputs]`, contiguous, to FP32 `[rows, outputs]`.

        Raises `ValueError` for other features, and `MemoryError`.
        """
        if (
            features.dtype != np.float32
            or features.shape != (len(features), self.inputs)
            or not features.flags.c_contiguous
        ):
            raise ValueError(
                f"expected contiguous features FP32 [rows, {self.inputs}], "
                f"got {features.dtype} {list(features.shape)}"
            )
        result = np.empty((len(features), self.outputs), np.float32)
        error = self._function(
            self._instruction_set,
            self._threads,
            self._array,
            len(self._array),
            len(features),
            features.ctypes.data,
            result.ctypes.data,
        )
        if error:
            raise MemoryError(f"no memory for the results of layers, {len(features)} rows")
        return result


class _Step(ctypes.Structure):
    """The layout is that of Step in `source/chain.cpp`."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("algorithm", ctypes.c_int32),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("scalar", ctypes.c_float),
        ("relu", ctypes.c_int32),
        ("bias", ctypes.c_void_p),
        ("weight", ctypes.c_void_p * 4),
        ("nonzeros", ctypes.c_int64),
    )


def _fill(entry: Any, step: Product | Elementwise, outputs: int) -> None:
    entry.outputs = outputs
    if isinstance(step, Elementwise):
        entry.kind = _KINDS.index(step.operation)
        entry.inputs = outputs
        entry.scalar = step.scalar
        return
    kernel = step.kernel
    entry.kind = _KINDS.index(kernel.operator)
    entry.algorithm = compiled.ALGORITHMS[kernel.algorithm]
    entry.inputs = kernel.inputs
    entry.relu = step.activation == "relu"
    entry.bias = None if step.bias is None else step.bias.data_ptr()
    for index, tensor in enumerate(kernel.weight):
        entry.weight[index] = tensor.data_ptr()
    entry.nonzeros = kernel.weight[0].numel()

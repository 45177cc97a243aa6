"""Sparse and packed Linear layers as torch operators, on the CPU, for inference.

They compute `activation(features @ weight.T + bias)` with a weight that `packing` packed:

    features    FP32 [rows, in], contiguous
    bias        FP32 [out] or None
    activation  "none" or "relu"
    algorithm   one of `ALGORITHMS`; "auto" selects by the number of rows
    result      FP32 [rows, out]

They are registered as `torch.ops.paretoserve.<name>` with shape functions, so that torch.compile
and torch.export keep them as one node. They use as many threads as `torch.get_num_threads()`
returns in the calling thread; the result does not depend on the number. Without the compiled
library they compute the same in torch, up to the order of sums: the last bits of FP32 results
differ between algorithms, instruction sets and torch.

Which outputs a NaN or an infinity in the features reaches depends on the operator. It reaches each
output whose packed weight for it is nonzero. In dense layers, and in torch, it reaches all outputs,
since it is also multiplied by zeros.

INT8 weights: each row of features is quantized to 7 bits, 0..127, by its minimum and maximum. The
sum of two products then fits 16 bits, 2 * 127 * 127 = 32258, and no instruction saturates. All
instruction sets compute the same integers and round alike after them, so a layer gives the same
bits for the same features on every processor. Layers in FP32 before it may not. A row with a NaN or
an infinity gives NaN everywhere.

Shapes and dtypes are checked, and `ValueError` is raised. Positions inside packed tensors are not:
pass only what `packing` returned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from variants.runtime.kernels import compiled, fallback, library
from variants.runtime.kernels.packing import BLOCK, CHUNK, PADDING

ALGORITHMS: Final = MappingProxyType(
    {
        "linear24": ("auto", "rows", "panel"),
        "linear24_int8": ("auto", "rows"),
        "linear_sparse": ("auto", "rows", "panel"),
        "linear_packed": ("auto", "rows"),
        "linear_packed_int8": ("auto", "rows"),
    }
)
"""Inner kernels of each operator.

"rows" reads the weight once for each few rows, which is fast for few. "panel" transposes the
features and computes several rows with one instruction, which is fast for many.
"""
ACTIVATIONS: Final = ("none", "relu")

Kernel: TypeAlias = Callable[[Tensor, Tensor | None, str], Tensor]
"""Maps features FP32 `[rows, in]`, contiguous, a bias FP32 `[out]` or None, and an activation
(`none` or `relu`) to FP32 `[rows, out]`."""

_SCHEMAS: Final = (
    "linear24(Tensor features, Tensor values, Tensor indices, Tensor? bias, int out_features, "
    "str activation='none', str algorithm='auto') -> Tensor",
    "linear24_int8(Tensor features, Tensor values, Tensor indices, Tensor scales, Tensor sums, "
    "Tensor? bias, int out_features, str activation='none', str algorithm='auto') -> Tensor",
    "linear_sparse(Tensor features, Tensor values, Tensor offsets, Tensor starts, Tensor? bias, "
    "str activation='none', str algorithm='auto') -> Tensor",
    "linear_packed(Tensor features, Tensor weight, Tensor? bias, int out_features, "
    "str activation='none', str algorithm='auto') -> Tensor",
    "linear_packed_int8(Tensor features, Tensor values, Tensor scales, Tensor sums, Tensor? bias, "
    "int out_features, str activation='none', str algorithm='auto') -> Tensor",
)


def linear24(
    features: Tensor,
    values: Tensor,
    indices: Tensor,
    bias: Tensor | None,
    out_features: int,
    activation: str = "none",
    algorithm: str = "auto",
) -> Tensor:
    """Multiply by a 2:4 sparse weight that `pack24` packed."""
    function = _linear24_operator if is_traced(features) else _linear24
    result: Tensor = function(features, values, indices, bias, out_features, activation, algorithm)
    return result


def linear24_int8(
    features: Tensor,
    values: Tensor,
    indices: Tensor,
    scales: Tensor,
    sums: Tensor,
    bias: Tensor | None,
    out_features: int,
    activation: str = "none",
    algorithm: str = "auto",
) -> Tensor:
    """Multiply by a 2:4 sparse INT8 weight that `pack24_int8` packed."""
    function = _linear24_int8_operator if is_traced(features) else _linear24_int8
    result: Tensor = function(
        features, values, indices, scales, sums, bias, out_features, activation, algorithm
    )
    return result


def linear_sparse(
    features: Tensor,
    values: Tensor,
    offsets: Tensor,
    starts: Tensor,
    bias: Tensor | None,
    activation: str = "none",
    algorithm: str = "auto",
) -> Tensor:
    """Multiply by a sparse weight that `pack_sparse` packed."""
    function = _linear_sparse_operator if is_traced(features) else _linear_sparse
    result: Tensor = function(features, values, offsets, starts, bias, activation, algorithm)
    return result


def linear_packed(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out_features: int,
    activation: str = "none",
    algorithm: str = "auto",
) -> Tensor:
    """Multiply by a dense weight that `pack_dense` packed."""
    function = _linear_packed_operator if is_traced(features) else _linear_packed
    result: Tensor = function(features, weight, bias, out_features, activation, algorithm)
    return result


def linear_packed_int8(
    features: Tensor,
    values: Tensor,
    scales: Tensor,
    sums: Tensor,
    bias: Tensor | None,
    out_features: int,
    activation: str = "none",
    algorithm: str = "auto",
) -> Tensor:
    """Multiply by a dense INT8 weight that `pack_dense_int8` packed."""
    function = _linear_packed_int8_operator if is_traced(features) else _linear_packed_int8
    result: Tensor = function(
        features, values, scales, sums, bias, out_features, activation, algorithm
    )
    return result


def _linear24(
    features: Tensor,
    values: Tensor,
    indices: Tensor,
    bias: Tensor | None,
    out_features: int,
    activation: str = "none",
    algorithm: str = "auto",
) -> Tensor:
    check("linear24", features, bias, out_features, activation, algorithm)
    blocks, padded = -(-out_features // BLOCK), _padded(features)
    _expect("values", values, torch.float32, (blocks, padded // 4, 2, BLOCK))
    _expect("indices", indices, torch.int32, (blocks, padded // PADDING, BLOCK))
    if not library.is_compiled():
        return fallback.linear24(features, values, indices, bias, out_features, activation)
    weights = (values.data_ptr(), indices.data_ptr())
    return compiled.call("linear24", features, weights, bias, out_features, activation, algorithm)


def _linear24_int8(
    features: Tensor,
    values: Tensor,
    indices: Tensor,
    scales: Tensor,
    sums: Tensor,
    bias: Tensor | None,
    out_features: int,
    activation: str = "none",
    algorithm: str = "auto",
) -> Tensor:
    check("linear24_int8", features, bias, out_features, activation, algorithm)
    blocks, chunks = -(-out_features // BLOCK), _padded(features) // PADDING
    _expect("values", values, torch.int8, (blocks, chunks, 4, BLOCK, 4))
    _expect("indices", indices, torch.uint8, (blocks, chunks, BLOCK, 4))
    _expect("scales", scales, torch.float32, (out_features,))
    _expect("sums", sums, torch.int32, (out_features,))
    if not library.is_compiled():
        return fallback.linear24_int8(features, values, indices, scales, sums, bias, activation)
    weights = (values.data_ptr(), indices.data_ptr(), scales.data_ptr(), sums.data_ptr())
    return compiled.call(
        "linear24_int8", features, weights, bias, out_features, activation, algorithm
    )


def _linear_sparse(
    features: Tensor,
    values: Tensor,
    offsets: Tensor,
    starts: Tensor,
    bias: Tensor | None,
    activation: str = "none",
    algorithm: str = "auto",
) -> Tensor:
    out_features = starts.shape[0]
    check("linear_sparse", features, bias, out_features, activation, algorithm)
    chunks = -(-features.shape[1] // CHUNK)
    _expect("values", values, torch.float32, (values.numel(),))
    _expect("offsets", offsets, torch.int16, (values.numel(),))
    _expect("starts", starts, torch.int32, (out_features, chunks + 1))
    if not library.is_compiled():
        return fallback.linear_sparse(features, values, offsets, starts, bias, activation)
    weights = (values.data_ptr(), offsets.data_ptr(), starts.data_ptr(), values.numel())
    return compiled.call(
        "linear_sparse", features, weights, bias, out_features, activation, algorithm
    )


def _linear_packed(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out_features: int,
    activation: str = "none",
    algorithm: str = "auto",
) -> Tensor:
    check("linear_packed", features, bias, out_features, activation, algorithm)
    blocks = -(-out_features // BLOCK)
    _expect("weight", weight, torch.float32, (blocks, features.shape[1], BLOCK))
    if not library.is_compiled():
        return fallback.linear_packed(features, weight, bias, out_features, activation)
    weights = (weight.data_ptr(),)
    return compiled.call(
        "linear_packed", features, weights, bias, out_features, activation, algorithm
    )


def _linear_packed_int8(
    features: Tensor,
    values: Tensor,
    scales: Tensor,
    sums: Tensor,
    bias: Tensor | None,
    out_features: int,
    activation: str = "none",
    algorithm: str = "auto",
) -> Tensor:
    check("linear_packed_int8", features, bias, out_features, activation, algorithm)
    blocks = -(-out_features // BLOCK)
    _expect("values", values, torch.int8, (blocks, _padded(features) // 4, BLOCK, 4))
    _expect("scales", scales, torch.float32, (out_features,))
    _expect("sums", sums, torch.int32, (out_features,))
    if not library.is_compiled():
        return fallback.linear_packed_int8(features, values, scales, sums, bias, activation)
    weights = (values.data_ptr(), scales.data_ptr(), sums.data_ptr())
    return compiled.call(
        "linear_packed_int8", features, weights, bias, out_features, activation, algorithm
    )


def is_traced(features: Tensor) -> bool:
    """Return whether torch must see the operator. Its dispatch takes longer than a small layer."""
    return type(features) is not Tensor or torch.compiler.is_compiling()


def check(
    operator: str,
    features: Tensor,
    bias: Tensor | None,
    out_features: int,
    activation: str,
    algorithm: str,
) -> None:
    """Raise `ValueError` unless the arguments fit the operator; see the module."""
    if (
        features.dtype != torch.float32
        or features.ndim != 2
        or not features.is_contiguous()
        or not features.is_cpu
    ):
        raise ValueError(
            "expected contiguous features FP32 [rows, in] on the CPU, "
            f"got {features.dtype} {list(features.shape)} on {features.device}"
        )
    if bias is not None:
        _expect("bias", bias, torch.float32, (out_features,))
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if algorithm not in ALGORITHMS[operator]:
        expected = ", ".join(ALGORITHMS[operator])
        raise ValueError(f"algorithm of {operator} must be one of {expected}, got {algorithm!r}")


def _expect(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if (
        tensor.dtype != dtype
        or tensor.shape != shape
        or not tensor.is_contiguous()
        or not tensor.is_cpu
    ):
        raise ValueError(
            f"expected contiguous {name} {dtype} {list(shape)} on the CPU, "
            f"got {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
        )


def _padded(features: Tensor) -> int:
    return -(-features.shape[1] // PADDING) * PADDING


def _shape_by_argument(features: Tensor, *others: Tensor | int | str | None) -> Tensor:
    (out_features,) = (each for each in others if isinstance(each, int | torch.SymInt))
    return features.new_empty(features.shape[0], out_features)


def _shape_by_starts(
    features: Tensor, values: Tensor, offsets: Tensor, starts: Tensor, *_: Tensor | str | None
) -> Tensor:
    return features.new_empty(features.shape[0], starts.shape[0])


def _register() -> object:
    untyped: Any = torch.library
    registered = untyped.Library("paretoserve", "DEF")
    for schema in _SCHEMAS:
        registered.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    registered.impl("linear24", _linear24, "CPU")
    registered.impl("linear24_int8", _linear24_int8, "CPU")
    registered.impl("linear_sparse", _linear_sparse, "CPU")
    registered.impl("linear_packed", _linear_packed, "CPU")
    registered.impl("linear_packed_int8", _linear_packed_int8, "CPU")
    for name in ("linear24", "linear24_int8", "linear_packed", "linear_packed_int8"):
        torch.library.register_fake(f"paretoserve::{name}", _shape_by_argument, lib=registered)
    torch.library.register_fake("paretoserve::linear_sparse", _shape_by_starts, lib=registered)
    return registered


_registered: Final = _register()
"""Keeps the operators registered."""

# Each look-up in torch.ops takes a microsecond.
_linear24_operator: Final = torch.ops.paretoserve.linear24.default
_linear24_int8_operator: Final = torch.ops.paretoserve.linear24_int8.default
_linear_sparse_operator: Final = torch.ops.paretoserve.linear_sparse.default
_linear_packed_operator: Final = torch.ops.paretoserve.linear_packed.default
_linear_packed_int8_operator: Final = torch.ops.paretoserve.linear_packed_int8.default

OPERATORS: Final[Mapping[str, Callable[..., Tensor]]] = {
    "linear24": linear24,
    "linear24_int8": linear24_int8,
    "linear_sparse": linear_sparse,
    "linear_packed": linear_packed,
    "linear_packed_int8": linear_packed_int8,
}
"""By name."""

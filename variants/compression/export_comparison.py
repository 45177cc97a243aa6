"""Compares an exported model with torch at several numbers of samples and sizes of dimensions.

    conditions of the export, samples ─▶ sizes ─▶ torch, onnxruntime ─▶ ValueError if they differ

Export records one path through `forward`. Where Python code in it branches on a size, the graph is
right on one side only. torch's exporter knows for which sizes its path holds; sizes at the ends of
their range, and others outside, are compared too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime
from torch import nn

from variants.model.dataset import Axes, Samples, count, resized, rows
from variants.model.forward import outputs, tensors
from variants.model.state import Interface
from variants.runtime.onnx import OnnxRunner
from variants.runtime.sparse.dispatch import BATCH_SIZES

TOLERANCE = 1e-4
"""Largest difference of an output from torch's, relative to the largest output (FP32 rounding)."""
BATCH: Final = "batch"
"""Name of the first dimension of every input."""
Sizes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Sizes by the name of a dimension, such as those at which the path of an export may change."""

_NUMBERS: Final = (1, 3, BATCH_SIZES[-1])
"""Numbers of samples that are always compared; the last is the largest that is served."""
LARGEST_SIZE: Final = 4096
"""Sizes above this are not compared: ends of ranges beyond it are those of memory."""
_FEW: Final = 3
"""Samples with which sizes of variable dimensions are compared."""
_HALF: Final = (
    "remove .half(), .bfloat16() and autocast from it (the steps fp16 and bf16 store weights in 16 "
    "bits)"
)
_OTHER_TYPES: Final = {
    onnx.TensorProto.FLOAT16: ("FP16", _HALF),
    onnx.TensorProto.BFLOAT16: ("BF16", _HALF),
    onnx.TensorProto.DOUBLE: ("FP64", "remove .double(), and convert constants with .float()"),
}
"""Types in which onnxruntime lacks operators, or which are too coarse to compare, with a remedy."""

ONNXRUNTIME_ERRORS: Final = (
    onnxruntime.EPFail,
    onnxruntime.EngineError,
    onnxruntime.Fail,
    onnxruntime.InvalidArgument,
    onnxruntime.InvalidGraph,
    onnxruntime.InvalidProtobuf,
    onnxruntime.NotImplemented,
    onnxruntime.RuntimeException,
)
"""What onnxruntime raises for a model that it cannot load or run."""


@dataclass(frozen=True, eq=False)
class _Case:
    """Samples on which torch and onnxruntime are compared."""

    dimension: str
    """The name of the dimension whose size is tried."""
    size: int
    samples: Samples
    is_invented: bool
    """Whether the network may reject the size, since no sample has it or no batch is as large."""


def require_equal(
    network: nn.Module,
    model: onnx.ModelProto,
    samples: Samples,
    interface: Interface,
    edges: Sizes,
) -> None:
    """Compare all outputs of a network in evaluation mode with those of its exported model.

    `edges` are the sizes at which the path of the export may change. Raises `ValueError` with the
    size at which they differ, and what to change.
    """
    try:
        runner = OnnxRunner(model.SerializeToString(), threads=1)
    except ONNXRUNTIME_ERRORS as error:
        raise ValueError(
            f"onnxruntime cannot run the exported model: {first_line(error)}{_type_hint(model)}"
        ) from error
    equal: dict[str, list[int]] = {}
    for case in _cases(samples, interface.axes, edges):
        if _is_equal(network, runner, model, case, interface, equal):
            equal.setdefault(case.dimension, []).append(case.size)


def relative_difference(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest difference, relative to the largest finite value.

    Equal infinities do not differ, nor do two NaN. The difference of different shapes is infinite.
    """
    if actual.shape != expected.shape:
        return np.inf
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    differ = ~((actual == expected) | (np.isnan(actual) & np.isnan(expected)))
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    return float(np.abs(actual[differ] - expected[differ]).max(initial=0.0) / (largest or 1.0))


_PREFIX: Final = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")


def first_line(error: BaseException) -> str:
    """Return the first line of a message, without onnxruntime's prefix."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _PREFIX.sub("", lines[0])


def _cases(samples: Samples, axes: Axes, edges: Sizes) -> Iterator[_Case]:
    """Yield the samples to compare: few, then many, then other sizes of variable dimensions."""
    for number in _ascending((*_NUMBERS, *edges.get(BATCH, ()))):
        batch = rows(samples, np.arange(number) % count(samples))
        yield _Case(BATCH, number, batch, is_invented=number > _NUMBERS[-1])
    few = rows(samples, np.arange(_FEW) % count(samples))
    for name in dict.fromkeys(name for named in axes.values() for name in named.values()):
        size = next(
            few[key].shape[axis]
            for key, named in axes.items()
            for axis, other in named.items()
            if other == name
        )
        for other_size in _ascending((1, size // 2, size, *edges.get(name, ()))):
            yield _Case(name, other_size, resized(few, axes, name, other_size), other_size != size)


def _ascending(sizes: Iterable[int]) -> list[int]:
    return sorted({size for size in sizes if 1 <= size <= LARGEST_SIZE})


def _is_equal(
    network: nn.Module,
    runner: OnnxRunner,
    model: onnx.ModelProto,
    case: _Case,
    interface: Interface,
    equal: Mapping[str, Sequence[int]],
) -> bool:
    """Compare one case; return False if the network does not accept it."""
    inputs = tensors(case.samples)
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in case.samples.items())
    try:
        with torch.inference_mode():
            expected = outputs(network, inputs)
    except Exception as error:  # code of the user may raise any exception
        if case.is_invented:
            return False
        raise ValueError(f"the network fails for {shapes}: {first_line(error)}") from error
    try:
        actual = runner(case.samples)
    except (ValueError, *ONNXRUNTIME_ERRORS) as error:
        raise ValueError(
            f"the exported model fails for {shapes}, which torch accepts: {first_line(error)}"
            f"{_size_hint(case, equal)}"
        ) from error
    for spec, tensor in zip(interface.outputs, expected, strict=True):
        difference = relative_difference(actual[spec.name], tensor.detach().numpy())
        if not difference <= TOLERANCE:  # NaN too
            raise ValueError(
                f"the exported model fails for {shapes}: {spec.name!r} differs from torch by "
                f"{difference:.1e} of its size"
                f"{_random_hint(network, inputs, expected) or _type_hint(model)}"
                f"{_size_hint(case, equal)}"
            )
    return True


def _random_hint(
    network: nn.Module, inputs: tuple[torch.Tensor, ...], first: tuple[torch.Tensor, ...]
) -> str:
    with torch.inference_mode():
        again = outputs(network, inputs)
    if all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
        return ""
    return "; torch's own outputs differ from call to call: forward must not draw random numbers"


def _type_hint(model: onnx.ModelProto) -> str:
    """Return a hint if the model computes in another type than FP32."""
    kinds = {tensor.data_type for tensor in model.graph.initializer} | {
        attribute.i
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.name in ("to", "dtype")
    }
    for kind, (name, remedy) in _OTHER_TYPES.items():
        if kind in kinds:
            return f"; forward computes in {name}, and variants in FP32: {remedy}"
    return ""


def _size_hint(case: _Case, equal: Mapping[str, Sequence[int]]) -> str:
    """Return what to change if other sizes of the same dimension are right."""
    if not (right := [size for size in equal.get(case.dimension, ()) if size != case.size]):
        return ""
    what = "the number of samples" if case.dimension == BATCH else f"the size of {case.dimension!r}"
    return (
        f"; it is right for {', '.join(map(str, right))}: forward must compute the same for every "
        f"size, so remove what depends on {what} (shape, len() or size() in an if or a loop)"
    )

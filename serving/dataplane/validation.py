"""Checks that tensors fit the model, and determines which requests can share a batch."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable
from typing import Any, Final, NamedTuple

from numpy.typing import NDArray

from serving.dataplane.batching import Arrays
from serving.errors import InvalidRequest, shorten
from variants.catalog.catalog import Model, TensorSpec
from variants.catalog.datatype import DATATYPE

MAX_KEPT: Final = 1024
"""Number of combinations of datatypes and shapes whose check is kept."""


class Fit(NamedTuple):
    """What follows from the datatypes and shapes of the inputs of a request."""

    size: int
    """Number of samples."""
    signature: Hashable
    """Equal for two requests only if they can share a batch."""


class ModelTensors:
    """The inputs and outputs of a model. Dimension 0 of each tensor is the batch."""

    def __init__(self, model: Model, max_batch: int) -> None:
        self._inputs = {spec.name: spec for spec in model.inputs}
        self._outputs = {spec.name for spec in model.outputs}
        self._texts = [spec.name for spec in model.inputs if spec.datatype == "BYTES"]
        self._max_batch = max_batch
        self.max_values = max_batch * sum(_sample_values(spec) for spec in model.inputs)
        """Most values that the inputs of a request have; infinity if a dimension is variable."""
        self._fits: dict[Hashable, Fit] = {}
        """By name, datatype and shape of each input, in the order of the request."""
        self._axes: dict[str, list[tuple[str, int]]] = {}
        """Named dimensions of variable size that several inputs share: (input, axis) by name."""
        for name, axes in model.axes.items():
            for axis, axis_name in axes.items():
                self._axes.setdefault(axis_name, []).append((name, axis))
        self._axes = {
            axis_name: places for axis_name, places in self._axes.items() if len(places) > 1
        }

    def check(self, inputs: Arrays, outputs: Collection[str]) -> Fit:
        """Return what follows from datatypes and shapes.

        Raises `InvalidRequest` if the tensors do not fit the model.
        """
        for name in outputs:
            if name not in self._outputs:
                known = ", ".join(sorted(self._outputs))
                raise InvalidRequest(f"there is no output {name!r:.100}; there is {known}")
        kinds = tuple([(name, array.dtype.num, array.shape) for name, array in inputs.items()])
        fit = self._fits.get(kinds)
        if fit is None:
            fit = Fit(self._check(inputs), signature(inputs))
            if len(self._fits) >= MAX_KEPT:
                self._fits.clear()
            self._fits[kinds] = fit
        for name in self._texts:
            _check_text(name, inputs[name])
        return fit

    def _check(self, inputs: Arrays) -> int:
        """Check datatypes and shapes; return the number of samples."""
        if inputs.keys() != self._inputs.keys():
            raise InvalidRequest(
                f"the model takes the inputs {', '.join(self._inputs)}; "
                f"the request has {shorten(list(inputs))}"
            )
        size = -1
        for name, array in inputs.items():
            spec = self._inputs[name]
            datatype = DATATYPE[array.dtype]
            if datatype != spec.datatype:
                raise InvalidRequest(
                    f"input {name!r} must be {spec.datatype}, the request has {datatype}"
                )
            if not _fits(array.shape, spec):
                raise InvalidRequest(
                    f"input {name!r} must have shape {list(spec.shape)}, where -1 is any size; "
                    f"the request has {list(array.shape)}"
                )
            if size not in (-1, array.shape[0]):
                raise InvalidRequest("all inputs must have the same size in their first dimension")
            size = array.shape[0]
        if self._axes:
            self._check_axes(inputs)
        if not 1 <= size <= self._max_batch:
            raise InvalidRequest(
                f"a request must have from 1 to {self._max_batch} samples, this one has {size}"
            )
        return size

    def _check_axes(self, inputs: Arrays) -> None:
        for axis_name, places in self._axes.items():
            sizes = {name: inputs[name].shape[axis] for name, axis in places}
            if len(set(sizes.values())) > 1:
                listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
                raise InvalidRequest(
                    f"the size of {axis_name!r} must be the same for all inputs, got {listed}"
                )


def signature(inputs: Arrays) -> Hashable:
    """Return a key that is equal for two requests only if they can share a batch.

    The key holds the name and all dimensions but the first of every input.
    """
    return tuple(sorted((name, array.shape[1:]) for name, array in inputs.items()))


def _sample_values(spec: TensorSpec) -> float:
    sizes = spec.shape[1:]
    return math.inf if -1 in sizes else math.prod(sizes)


def _fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    return len(shape) == len(spec.shape) and all(
        expected in (-1, size) for expected, size in zip(spec.shape, shape, strict=True)
    )


def _check_text(name: str, array: NDArray[Any]) -> None:
    """Raise `InvalidRequest` if the bytes are not UTF-8; the runners treat BYTES as text."""
    try:
        for element in array.reshape(-1).tolist():
            element.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"input {name!r} must be text in UTF-8; the request has other bytes"
        ) from None

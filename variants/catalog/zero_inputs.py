"""Inputs of nothing but zeros: to warm a variant up, to time it, to see what memory it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from variants.catalog.catalog import Model, TensorSpec
from variants.catalog.datatype import NUMPY


def zero_input(spec: TensorSpec, batch_size: int) -> NDArray[Any]:
    """Return an input of `batch_size` samples; dimensions of variable size beside it are 1.

    An element of BYTES is empty.
    """
    shape = (batch_size, *(max(size, 1) for size in spec.shape[1:]))
    dtype = NUMPY[spec.datatype]
    return np.full(shape, b"", dtype) if dtype.kind == "O" else np.zeros(shape, dtype)


def zero_batch(model: Model, batch_size: int) -> dict[str, NDArray[Any]]:
    """Return by name an input of `batch_size` samples for each that the model takes."""
    return {spec.name: zero_input(spec, batch_size) for spec in model.inputs}

"""Inputs filled with zeros, for warming up a variant and for example requests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from variants.catalog.catalog import Model, TensorSpec
from variants.catalog.datatype import NUMPY


def zero_input(spec: TensorSpec, batch_size: int) -> NDArray[Any]:
    """Return an array of `batch_size` zero samples. Other variable dimensions get size 1.

    BYTES elements are empty.
    """
    shape = (batch_size, *(max(size, 1) for size in spec.shape[1:]))
    dtype = NUMPY[spec.datatype]
    return np.full(shape, b"", dtype) if dtype.kind == "O" else np.zeros(shape, dtype)


def zero_batch(model: Model, batch_size: int) -> dict[str, NDArray[Any]]:
    """Return an array of `batch_size` zero samples for each input of the model, by name."""
    return {spec.name: zero_input(spec, batch_size) for spec in model.inputs}

"""Joins the inputs of several requests along the batch dimension, and splits the outputs again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]


def join(requests: Sequence[Arrays]) -> Arrays:
    """Concatenate inputs of equal names and trailing dimensions along dimension 0.

    A single request is returned as it is, without a copy.
    """
    if len(requests) == 1:
        return requests[0]
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


def split(outputs: Arrays, sizes: Sequence[int]) -> list[Arrays]:
    """Split outputs along dimension 0 into parts of these sizes; the parts are views.

    Raises `ValueError` if the first dimension of an output is not the sum of the sizes.
    """
    total = sum(sizes)
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != total:
            raise ValueError(f"output {name} has shape {array.shape} for a batch of {total}")
    parts: list[Arrays] = []
    start = 0
    for size in sizes:
        parts.append({name: array[start : start + size] for name, array in outputs.items()})
        start += size
    return parts

"""Many requests in one call: their inputs joined along the batch dimension, the outputs parted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]


def join(requests: Sequence[Arrays]) -> Arrays:
    """Join inputs of equal names and trailing dimensions along dimension 0."""
    if len(requests) == 1:
        return requests[0]
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


def part(outputs: Arrays, sizes: Sequence[int]) -> list[Arrays]:
    """Part outputs along dimension 0 into as many samples as each request had; views, no copies.

    Raises `ValueError` if an output does not have as many samples as went in.
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

"""Evaluation of torch networks on named arrays, the counterpart of runners for artifacts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

import numpy as np
import torch
from torch import Tensor, nn

from variants.model.dataset import Samples, count, rows
from variants.model.fast_path import without_fast_path

BATCH: int = 512
"""Samples per forward pass."""


def tensors(samples: Samples) -> tuple[Tensor, ...]:
    """Return the arrays as tensors, in order. Writable arrays share their memory."""
    return tuple(
        torch.from_numpy(np.require(array, requirements=("C_CONTIGUOUS", "WRITEABLE")))
        for array in samples.values()
    )


def outputs(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Apply the network and return its outputs. The first output holds the scores.

    Every layer is called (see `without_fast_path`), so that hooks observe it. Raises `ValueError`
    if the network returns anything but a tensor or a sequence of tensors.
    """
    with without_fast_path():
        returned = network(*inputs)
    result = (returned,) if isinstance(returned, Tensor) else returned
    if isinstance(result, tuple | list) and result and all(isinstance(r, Tensor) for r in result):
        return tuple(result)
    raise ValueError(
        f"a network must return a tensor of scores, or a tuple of tensors with the scores first, "
        f"got {_describe_returned(returned)}; return a network from network() whose forward "
        f"selects them"
    )


def _describe_returned(returned: object) -> str:
    kind = type(returned).__name__
    if isinstance(returned, Mapping):
        return f"{kind} with the keys {', '.join(map(str, returned))}"
    if is_dataclass(returned):
        return f"{kind} with the fields {', '.join(each.name for each in fields(returned))}"
    if isinstance(returned, tuple | list):
        return f"{kind} of {', '.join(type(item).__name__ for item in returned) or 'nothing'}"
    return kind


def scores(network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """Apply the network and return its first output, the scores `[n, classes]`."""
    return outputs(network, inputs)[0]


def batches(samples: Samples, size: int = BATCH) -> Iterator[tuple[Tensor, ...]]:
    """Yield the samples in order, in batches of `size`."""
    for start in range(0, count(samples), size):
        yield tensors(rows(samples, slice(start, start + size)))


def all_scores(network: nn.Module, samples: Samples) -> Tensor:
    """Return the scores of all samples, `[n, classes]`. Sets the network to evaluation mode."""
    network.eval()
    with torch.inference_mode():
        return torch.cat([scores(network, batch) for batch in batches(samples)])


def first_line(error: BaseException) -> str:
    """Return the first line of an error of torch, whose messages may have many; or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""A network applied to named arrays: what a runner does, for networks that are still in torch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from variants.model.dataset import Samples, count, rows

BATCH: int = 512


def tensors(samples: Samples) -> tuple[Tensor, ...]:
    """Return the arrays as tensors, in order, that share their memory if it may be written to."""
    return tuple(
        torch.from_numpy(np.require(array, requirements=("C_CONTIGUOUS", "WRITEABLE")))
        for array in samples.values()
    )


def outputs(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Apply the network; return its outputs, of which the first are the scores.

    Raises `ValueError` if they are no tensors, as in a dictionary.
    """
    answered = network(*inputs)
    found = (answered,) if isinstance(answered, Tensor) else answered
    if not isinstance(found, tuple | list) or not all(isinstance(one, Tensor) for one in found):
        raise ValueError(
            f"a network must return a tensor of scores, or a tuple of tensors with the scores "
            f"first, got {type(answered).__name__}"
        )
    return tuple(found)


def scores(network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """Apply the network; return its first output, scores `[n, classes]`."""
    return outputs(network, inputs)[0]


def batches(samples: Samples, size: int = BATCH) -> Iterator[tuple[Tensor, ...]]:
    """Yield the samples in order, `size` at a time."""
    for start in range(0, count(samples), size):
        yield tensors(rows(samples, slice(start, start + size)))


def all_scores(network: nn.Module, samples: Samples) -> Tensor:
    """Return the scores of all samples, `[n, classes]`; leaves the network in evaluation mode."""
    network.eval()
    with torch.inference_mode():
        return torch.cat([scores(network, batch) for batch in batches(samples)])

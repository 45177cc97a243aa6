"""What the Linear layers of a network are given: where it lies, and how it spreads.

samples ─▶ network, hooks on its layers ─▶ sums ─▶ mean and second moments of each layer's inputs
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn

from variants.model.dataset import Samples, count
from variants.model.forward import BATCH, batches


@dataclass(frozen=True, eq=False)
class InputStatistics:
    """Over all that a layer was given: `[..., in]` is one input for each of its leading places."""

    mean: Tensor
    """FP64 `[in]`"""
    moments: Tensor
    """X^T X / n, FP64 `[in, in]`"""

    @property
    def covariance(self) -> Tensor:
        """The moments about the mean, FP64 `[in, in]`."""
        return self.moments - torch.outer(self.mean, self.mean)


def measure_input_statistics(
    network: nn.Module, layers: Mapping[str, nn.Linear], samples: Samples, progress: Progress
) -> dict[str, InputStatistics]:
    """Return the inputs of each layer, by name, in one pass over the samples.

    A layer that is never called as a module is missing. Sums are of the size of a layer's inputs,
    squared, for every layer at once.
    """
    numbers = dict.fromkeys(layers, 0)
    sums: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}

    def add(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given: Tensor = args[0] if args else kwargs["input"]
        given = given.reshape(-1, given.shape[-1]).double()
        if name not in sums:
            size = given.shape[1]
            sums[name] = torch.zeros(size, dtype=torch.float64)
            squares[name] = torch.zeros(size, size, dtype=torch.float64)
        numbers[name] += len(given)
        sums[name] += given.sum(dim=0)
        squares[name].addmm_(given.T, given)

    hooks = [
        layer.register_forward_pre_hook(partial(add, name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        with torch.inference_mode():
            total = -(-count(samples) // BATCH)
            for batch in progress.track(batches(samples), total, description="inputs"):
                network.eval()(*batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: InputStatistics(sums[name] / numbers[name], squares[name] / numbers[name])
        for name in sums
    }

"""Mean and second moments of the inputs of Linear layers.

samples ─▶ network with hooks on its layers ─▶ sums ─▶ statistics of the inputs of each layer
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
from variants.model.forward import BATCH, batches, outputs


@dataclass(frozen=True, eq=False)
class InputStatistics:
    """Statistics over all inputs of a layer. A tensor `[..., in]` holds one input per position."""

    mean: Tensor
    """FP64 `[in]`"""
    moments: Tensor
    """X^T X / n, FP64 `[in, in]`"""

    @property
    def covariance(self) -> Tensor:
        """The covariance matrix, FP64 `[in, in]`."""
        return self.moments - torch.outer(self.mean, self.mean)


def measure_input_statistics(
    network: nn.Module, layers: Mapping[str, nn.Linear], samples: Samples, progress: Progress
) -> dict[str, InputStatistics]:
    """Return the input statistics of each layer, by name, from one pass over the samples.

    Layers that are never called as modules are missing from the result. Memory use is the squared
    number of inputs, summed over all layers.
    """
    counts = dict.fromkeys(layers, 0)
    sums: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}

    def add(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs: Tensor = args[0] if args else kwargs["input"]
        inputs = inputs.reshape(-1, inputs.shape[-1]).double()
        if name not in sums:
            size = inputs.shape[1]
            sums[name] = torch.zeros(size, dtype=torch.float64)
            squares[name] = torch.zeros(size, size, dtype=torch.float64)
        counts[name] += len(inputs)
        sums[name] += inputs.sum(dim=0)
        squares[name].addmm_(inputs.T, inputs)

    hooks = [
        layer.register_forward_pre_hook(partial(add, name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        with torch.inference_mode():
            total = -(-count(samples) // BATCH)
            for batch in progress.track(batches(samples), total, description="inputs"):
                outputs(network.eval(), batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: InputStatistics(sums[name] / counts[name], squares[name] / counts[name])
        for name in sums
    }

"""Means and deviations of hidden neurons on samples, and the folding of means into biases.

    groups, samples ─▶ measure_reader_moments ─▶ moments of the inputs of each reading layer
                       ├▶ merge_by_group: moments of every neuron
                       └▶ fold_means: means of removed neurons, added to biases

A neuron or channel is measured where it is read, that is, after its activation function.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import nn

from variants.compression.pruning.group import Group, UnitMasks
from variants.compression.pruning.score import channels_last
from variants.model.dataset import Samples, count
from variants.model.forward import batches, outputs
from variants.runtime.shape import CONVOLUTIONS

_BATCH: Final = 128
"""Samples per batch."""
_ROWS: Final = 1 << 14
"""Rows that are converted to FP64 at a time; an image has a row for each pixel."""


class RunningMoments:
    """Running mean and standard deviation of several quantities, updated by batches.

    Chan, Golub and LeVeque 1983, the batched form of Welford's method, in FP64. The result does not
    depend on the split into batches, takes one pass, and avoids the cancellation of sums of
    squares.
    """

    def __init__(self, width: int) -> None:
        self.count: NDArray[np.float64] = np.zeros(width)
        """Number of values of each quantity."""
        self.mean: NDArray[np.float64] = np.zeros(width)
        self._squares: NDArray[np.float64] = np.zeros(width)

    def update(self, batch: NDArray[np.floating]) -> None:
        """Add a batch of values, `[n, width]`."""
        batch = batch.astype(np.float64)
        mean = batch.mean(axis=0)
        count = np.full(len(mean), float(len(batch)))
        self._merge(count, mean, ((batch - mean) ** 2).sum(axis=0))

    def merge(self, other: RunningMoments, places: NDArray[np.int64]) -> None:
        """Add the values of `other`, its quantity i to quantity `places[i]`; -1 is ignored."""
        width, is_mapped = len(self.mean), places >= 0
        targets, count, means = places[is_mapped], other.count[is_mapped], other.mean[is_mapped]
        total = np.bincount(targets, count, width).astype(np.float64)
        mean = np.bincount(targets, count * means, width) / np.maximum(total, 1)
        squares = other._squares[is_mapped] + count * (means - mean[targets]) ** 2
        self._merge(total, mean, np.bincount(targets, squares, width).astype(np.float64))

    @property
    def deviation(self) -> NDArray[np.float64]:
        """Standard deviation (divided by n, as in `numpy.std`), `[width]`."""
        return np.sqrt(self._squares / np.maximum(self.count, 1))

    def _merge(
        self, count: NDArray[np.float64], mean: NDArray[np.float64], squares: NDArray[np.float64]
    ) -> None:
        total, delta = self.count + count, mean - self.mean
        share = count / np.maximum(total, 1)
        self._squares = self._squares + squares + delta**2 * self.count * share
        self.mean = self.mean + delta * share
        self.count = total


def measure_reader_moments(
    network: nn.Module, groups: Sequence[Group], samples: Samples, progress: Progress
) -> dict[str, RunningMoments]:
    """Return the moments of each input of every layer that reads a group, by layer.

    They include all samples and all positions of images and texts, padding too. The network runs in
    evaluation mode. Raises `ValueError` if such a layer is never called, for example because the
    network uses its weight directly.
    """
    network.eval()
    moments = {
        name: RunningMoments(len(units))
        for group in groups
        for name, units in group.readers.items()
    }
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(
            partial(_observe, layer), with_kwargs=True
        )
        for name, layer in moments.items()
    ]
    number = -(-count(samples) // _BATCH)
    description = "neuron statistics"
    try:
        with torch.inference_mode():
            for batch in progress.track(batches(samples, _BATCH), number, description=description):
                outputs(network, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if uncalled := [name for name, layer in moments.items() if not layer.count.all()]:
        raise ValueError(f"the inputs of {', '.join(uncalled)} cannot be observed: never called")
    return moments


def merge_by_group(
    groups: Sequence[Group], moments: Mapping[str, RunningMoments]
) -> dict[str, RunningMoments]:
    """Return the moments of every neuron by group, over all layers that read it."""
    moments_by_group = {}
    for group in groups:
        moments_by_group[group.name] = RunningMoments(group.size)
        for reader, units in group.readers.items():
            moments_by_group[group.name].merge(moments[reader], units)
    return moments_by_group


def fold_means(
    network: nn.Module,
    groups: Sequence[Group],
    kept: UnitMasks,
    moments: Mapping[str, RunningMoments],
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a copy in which biases replace the means of units that `kept` marks False, and notes.

    The bias of a reader is increased by its weights for the removed units times their means. The
    output of the reader is then exact for constant units, and for a Linear exact on average. A
    reader without a bias is not changed; neither is a convolution with padding, because fewer
    inputs contribute at its edges. A note names these readers.
    """
    network = copy.deepcopy(network)
    removed_means: dict[str, NDArray[np.float64]] = {}
    for group in groups:
        if group.name not in kept or kept[group.name].all():
            continue
        for name, units in group.readers.items():
            is_removed = (units >= 0) & ~kept[group.name][units]
            means = removed_means.setdefault(name, np.zeros(len(units)))
            means[is_removed] = moments[name].mean[is_removed]
    notes = []
    for name, means in removed_means.items():
        reader = network.get_submodule(name)
        if why := _fold_obstacle(reader):
            notes.append(f"means not folded into {name}: {why}")
            continue
        with torch.no_grad():
            weight = reader.get_parameter("weight")
            # The mean is the same at every kernel position.
            summed_weight = weight.reshape(*weight.shape[:2], -1).sum(2)
            bias = summed_weight @ torch.from_numpy(means).to(weight.dtype)
            reader.get_parameter("bias").add_(bias)
    return network, tuple(notes)


def count_parameters(network: nn.Module) -> int:
    """Return the number of weights and biases of the network."""
    return sum(parameter.numel() for parameter in network.parameters())


def _fold_obstacle(reader: nn.Module) -> str:
    if reader.bias is None:
        return "it has no bias"
    if isinstance(reader, CONVOLUTIONS) and set(reader.padding) - {0} and reader.padding != "valid":
        return "it pads, so that fewer inputs contribute at its edges"
    return ""


def _observe(
    moments: RunningMoments, reader: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    values = channels_last(reader, args[0] if args else kwargs["input"]).numpy()
    values = values.reshape(-1, values.shape[-1])
    for start in range(0, len(values), _ROWS):
        moments.update(values[start : start + _ROWS])

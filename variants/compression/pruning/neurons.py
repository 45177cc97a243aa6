"""What hidden neurons say on real data, and biases that speak for those about to go.

    groups, samples ─▶ measure_neurons ─▶ moments of what each layer reads
                       ├▶ by_group: of every neuron         ├▶ fold_means: its mean, as a bias

A neuron or channel is seen where it is read, so after its activation and whatever else is between.
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
from variants.model.forward import batches
from variants.runtime.shape import CONVOLUTIONS

_BATCH: Final = 128
_ROWS: Final = 1 << 14
"""Values are summed up in FP64 this many rows at a time: an image has a row for each pixel."""


class RunningMoments:
    """Mean and deviation of many quantities, updated batch by batch.

    Chan, Golub and LeVeque 1983 (the batched form of Welford's method): exact over everything
    seen, however it was split, in one pass and without the cancellation of summing squares. FP64.
    """

    def __init__(self, width: int) -> None:
        self.count: NDArray[np.float64] = np.zeros(width)
        """How many values were seen of each quantity."""
        self.mean: NDArray[np.float64] = np.zeros(width)
        self._squares: NDArray[np.float64] = np.zeros(width)

    def update(self, batch: NDArray[np.floating]) -> None:
        """Take in `[n, width]` more values."""
        batch = batch.astype(np.float64)
        mean = batch.mean(axis=0)
        count = np.full(len(mean), float(len(batch)))
        self._merge(count, mean, ((batch - mean) ** 2).sum(axis=0))

    def merge(self, other: RunningMoments, places: NDArray[np.int64]) -> None:
        """Take in all that `other` saw: its quantity i as our quantity `places[i]`, if not -1."""
        width, there = len(self.mean), places >= 0
        at, count, means = places[there], other.count[there], other.mean[there]
        total = np.bincount(at, count, width).astype(np.float64)
        mean = np.bincount(at, count * means, width) / np.maximum(total, 1)
        spread = other._squares[there] + count * (means - mean[at]) ** 2
        self._merge(total, mean, np.bincount(at, spread, width).astype(np.float64))

    @property
    def deviation(self) -> NDArray[np.float64]:
        """Standard deviation of what was seen (divided by n, as `numpy.std`), `[width]`."""
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
    """Return, for every layer that reads a group, the moments of each of its inputs.

    Over all samples, and all positions of images and texts alike, padded ones included. The
    network is run in evaluation mode. Raises `ValueError` if such a layer is never called, as by
    code that takes its weight and computes with that.
    """
    network.eval()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it runs around the layers and their hooks
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
                network(*batch)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for hook in hooks:
            hook.remove()
    if unseen := [name for name, layer in moments.items() if not layer.count.all()]:
        raise ValueError(f"what {', '.join(unseen)} read cannot be seen: they are never called")
    return moments


def merge_by_group(
    groups: Sequence[Group], moments: Mapping[str, RunningMoments]
) -> dict[str, RunningMoments]:
    """Return the moments of every neuron by group, over all that any layer reads of it."""
    found = {}
    for group in groups:
        found[group.name] = RunningMoments(group.size)
        for reader, units in group.readers.items():
            found[group.name].merge(moments[reader], units)
    return found


def fold_means(
    network: nn.Module,
    groups: Sequence[Group],
    kept: UnitMasks,
    moments: Mapping[str, RunningMoments],
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a copy in which biases stand in for what `kept` marks False, and notes.

    A removed neuron still says something: on average its mean. A reader's weights for it times
    that mean, added to the reader's bias, make what the reader says exact for a neuron that is
    constant, and exact on average for a Linear. A reader that has no bias, or a convolution that
    pads (its edges see less), is left as it is, and a note says so.
    """
    network = copy.deepcopy(network)
    absent: dict[str, NDArray[np.float64]] = {}
    for group in groups:
        if group.name not in kept or kept[group.name].all():
            continue
        for name, units in group.readers.items():
            goes = (units >= 0) & ~kept[group.name][units]
            means = absent.setdefault(name, np.zeros(len(units)))
            means[goes] = moments[name].mean[goes]
    notes = []
    for name, means in absent.items():
        reader = network.get_submodule(name)
        if why := _cannot_fold(reader):
            notes.append(f"means not folded into {name}: {why}")
            continue
        with torch.no_grad():
            weight = reader.get_parameter("weight")
            taps = weight.reshape(*weight.shape[:2], -1).sum(2)  # a kernel sees its mean at each
            bias = taps @ torch.from_numpy(means).to(weight.dtype)
            reader.get_parameter("bias").add_(bias)
    return network, tuple(notes)


def count_parameters(network: nn.Module) -> int:
    """Return how many weights and biases the network has."""
    return sum(parameter.numel() for parameter in network.parameters())


def _cannot_fold(reader: nn.Module) -> str:
    if reader.bias is None:
        return "it has no bias"
    if isinstance(reader, CONVOLUTIONS) and set(reader.padding) - {0} and reader.padding != "valid":
        return "it pads, and its edges see less"
    return ""


def _observe(
    moments: RunningMoments, reader: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    values = channels_last(reader, args[0] if args else kwargs["input"]).numpy()
    values = values.reshape(-1, values.shape[-1])
    for start in range(0, len(values), _ROWS):
        moments.update(values[start : start + _ROWS])

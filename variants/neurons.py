"""Hidden neurons: what they do on real data, and how to take some of them out.

    stack ─▶ measure_neurons ─▶ Moments of each neuron ─▶ remove_neurons ─▶ a smaller network

For an `nn.Sequential` of Linear layers with elementwise modules between them, in which neuron i of
a layer is exactly row i of its weight and column i of the next one's. Other structures couple
channels in ways that need a dependency graph; they are refused, never guessed at.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn

from variants.dataset import Samples
from variants.plan import linears

_BATCH = 512

ELEMENTWISE = (
    nn.Dropout, nn.ELU, nn.GELU, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU, nn.Mish,
    nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Tanh,
)  # fmt: skip
"""Modules that treat every neuron alike and by itself, so that removing one leaves the others."""


class Moments:
    """Mean and deviation of many quantities, updated batch by batch.

    Chan, Golub and LeVeque 1983 (the batched form of Welford's method): exact over everything
    seen, however it was split, in one pass and without the cancellation of summing squares. FP64.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(width)
        self._squares: NDArray[np.float64] = np.zeros(width)

    def update(self, batch: NDArray[np.floating]) -> None:
        """Take in `[n, width]` more values."""
        batch = batch.astype(np.float64)
        count, mean = len(batch), batch.mean(axis=0)
        total, delta = self.count + count, mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self._squares = (
            self._squares
            + ((batch - mean) ** 2).sum(axis=0)
            + delta**2 * (self.count * count / total)
        )
        self.count = total

    @property
    def deviation(self) -> NDArray[np.float64]:
        """Standard deviation of what was seen (divided by n, as `numpy.std`), `[width]`."""
        return np.sqrt(self._squares / max(self.count, 1))


@dataclass(frozen=True)
class Hidden:
    """A layer of hidden neurons: the Linear that computes them, and the one that reads them."""

    name: str
    reader: str


def stack(network: nn.Module) -> list[Hidden]:
    """Return the hidden layers of a sequential network, first to last.

    Raises `ValueError` that names the module for which this is not a simple stack.
    """
    if not isinstance(network, nn.Sequential):
        raise ValueError(
            f"neurons can be removed from an nn.Sequential of Linear layers and elementwise "
            f"modules, got {type(network).__name__}"
        )
    names = [name for name, module in network.named_children() if isinstance(module, nn.Linear)]
    if len(names) < 2:
        raise ValueError("there are no hidden neurons: the network has fewer than 2 Linear layers")
    children = list(network.named_children())
    first, last = (
        next(i for i, c in enumerate(children) if c[0] == n) for n in (names[0], names[-1])
    )
    for name, module in children[first:last]:
        if not isinstance(module, (nn.Linear, *ELEMENTWISE)):
            raise ValueError(
                f"neurons cannot be removed around module {name!r}, a {type(module).__name__}: "
                f"between Linear layers only elementwise modules are understood"
            )
    return [Hidden(name, reader) for name, reader in pairwise(names)]


def measure_neurons(network: nn.Module, samples: Samples, progress: Progress) -> dict[str, Moments]:
    """Return the moments of every hidden neuron after its activation, by its layer's name.

    The samples `[n, ...]` are passed through in batches, the network in evaluation mode.
    """
    network.eval()
    moments = {}
    hooks = []
    for layer in stack(network):
        moments[layer.name] = Moments(linears(network)[layer.name].out_features)
        # What the next Linear reads is what this layer says, its activation applied.
        observe = partial(_observe, moments[layer.name])
        hooks.append(linears(network)[layer.reader].register_forward_pre_hook(observe))
    batches = torch.split(torch.from_numpy(samples), _BATCH)
    try:
        with torch.inference_mode():
            for batch in progress.track(batches, description="neuron statistics"):
                network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return moments


def remove_neurons(network: nn.Module, kept: Mapping[str, NDArray[np.bool_]]) -> nn.Module:
    """Return a copy without the neurons that `kept`, BOOL `[neurons]` by layer, marks False.

    Its answers are those of the given network with these neurons' outputs set to zero.
    Raises `ValueError` if a layer would be left with none.
    """
    network = copy.deepcopy(network)
    found = linears(network)
    for layer in stack(network):
        if layer.name not in kept:
            continue
        keep = torch.from_numpy(kept[layer.name].nonzero()[0])
        if not len(keep):
            raise ValueError(f"layer {layer.name!r} would be left without neurons")
        linear, reader = found[layer.name], found[layer.reader]
        linear.weight = _parameter(linear.weight[keep])
        if linear.bias is not None:
            linear.bias = _parameter(linear.bias[keep])
        linear.out_features = reader.in_features = len(keep)
        reader.weight = _parameter(reader.weight[:, keep])
    return network


def fold_means(
    network: nn.Module,
    kept: Mapping[str, NDArray[np.bool_]],
    moments: Mapping[str, Moments],
) -> nn.Module:
    """Return a copy in which the reader's biases stand in for what is about to be removed.

    A removed neuron still says something: on average its mean. Adding its column of the reader's
    weight times that mean to the reader's bias makes the reader's input exact in the mean.
    """
    network = copy.deepcopy(network)
    found = linears(network)
    for layer in stack(network):
        reader = found[layer.reader]
        if layer.name not in kept or reader.bias is None:
            continue
        absent = np.where(kept[layer.name], 0.0, moments[layer.name].mean)
        with torch.no_grad():
            reader.bias.add_(reader.weight @ torch.from_numpy(absent).to(reader.weight.dtype))
    return network


def count_parameters(network: nn.Module) -> int:
    """Return how many weights and biases the network has."""
    return sum(parameter.numel() for parameter in network.parameters())


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().clone())


def _observe(moments: Moments, reader: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    moments.update(inputs[0].numpy())

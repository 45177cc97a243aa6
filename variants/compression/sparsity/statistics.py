"""What a network does on calibration samples, as far as it says which weights matter.

    samples ─▶ network, hooks on its layers ─▶ sums over everything that the layers read

Sums are FP64 and grow with the layers, never with the samples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn

from variants.compression.sparsity.layers import SparsifiableLayer, count_groups, unfold_inputs
from variants.model.dataset import Samples, Split, count, rows
from variants.model.forward import BATCH, batches, scores, tensors

_GRADIENT_BATCH = 32
"""Small, because sizes of gradients are averaged over batches: in large ones they cancel out."""


class _StopForward(Exception):
    """Everything that was wanted of a pass has been seen."""


@dataclass(eq=False)
class InputMagnitudes:
    """How large the inputs of a layer are, FP64 `[groups, columns]`, over all that it was given."""

    number: int
    absolute: Tensor
    squares: Tensor

    @property
    def mean(self) -> Tensor:
        """The mean absolute value of each column."""
        return self.absolute / self.number

    @property
    def norm(self) -> Tensor:
        """The L2 norm of each column."""
        return self.squares.sqrt()


@dataclass(frozen=True, eq=False)
class WeightGradients:
    """How the loss depends on each weight, of the weight's shape, averaged over batches."""

    gradient: Tensor
    """|g|"""
    taylor: Tensor
    """|w g|, how much the loss changes to first order if the weight is taken out."""


def draw_samples(split: Split, number: int, seed: int) -> Split:
    """Return `number` samples of the split, or all if it has fewer, in their order."""
    number = min(number, len(split))
    chosen = np.random.default_rng(seed).choice(len(split), number, replace=False)
    return split.take(np.sort(chosen))


def count_calls(
    network: nn.Module, layers: Mapping[str, SparsifiableLayer], samples: Samples
) -> dict[str, int]:
    """Return how often each layer is called for one sample, in the order of the first calls.

    A layer is missing if it is never called as a module: nothing of what it reads can be observed,
    as with the projections inside `nn.MultiheadAttention`.
    """
    calls: dict[str, int] = {}

    def note(name: str, inputs: Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1

    with _observing(layers, note), torch.inference_mode():
        network.eval()(*tensors(rows(samples, slice(0, 1))))
    return calls


def measure_input_magnitudes(
    network: nn.Module,
    layers: Mapping[str, SparsifiableLayer],
    samples: Samples,
    progress: Progress,
) -> dict[str, InputMagnitudes]:
    """Return the activity of what each layer reads, in one pass over the samples.

    Layers that cannot be observed (see `count_calls`) are missing.
    """
    found: dict[str, InputMagnitudes] = {}

    def add(name: str, inputs: Tensor) -> None:
        for part in unfold_inputs(layers[name], inputs):
            if name not in found:
                nothing = torch.zeros(part.shape[0], part.shape[2], dtype=torch.float64)
                found[name] = InputMagnitudes(0, nothing, nothing.clone())
            found[name].number += part.shape[1]
            found[name].absolute += part.abs().sum(dim=1, dtype=torch.float64)
            found[name].squares += part.square().sum(dim=1, dtype=torch.float64)

    with _observing(layers, add), torch.inference_mode():
        for batch in _tracked(samples, progress, "activity"):
            network.eval()(*batch)
    return found


def measure_hessian(
    network: nn.Module, layer: SparsifiableLayer, calls: int, samples: Samples, progress: Progress
) -> Tensor:
    """Return X^T X / n of what one layer reads, FP64 `[groups, columns, columns]`.

    Each pass ends once the layer was called `calls` times: what comes after it is not computed.
    """
    size = layer.weight[0].numel()
    total = torch.zeros(count_groups(layer), size, size, dtype=torch.float64)
    number = left = 0

    def add(name: str, inputs: Tensor) -> None:
        nonlocal number, left
        for part in unfold_inputs(layer, inputs):
            # Products of one batch in FP32: their rounding is far below the damping.
            total.add_(part.mT @ part)
            number += part.shape[1]
        left -= 1
        if not left:
            raise _StopForward

    with _observing({"": layer}, add), torch.inference_mode():
        for batch in _tracked(samples, progress, "second moments"):
            left = calls
            try:
                network.eval()(*batch)
            except _StopForward:
                continue
    return total / number


def measure_weight_gradients(
    network: nn.Module, layers: Mapping[str, SparsifiableLayer], split: Split, progress: Progress
) -> dict[str, WeightGradients]:
    """Return how the cross-entropy on labelled samples depends on the weights of each layer.

    The network is left as it is, and is in evaluation mode, so normalisations are fixed.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    weights = {name: network.get_parameter(f"{name}.weight") for name in layers}
    sums = {
        name: WeightGradients(torch.zeros_like(weight), torch.zeros_like(weight))
        for name, weight in weights.items()
    }
    for weight in weights.values():
        weight.requires_grad_(True)
    starts = range(0, len(split), _GRADIENT_BATCH)
    for start in progress.track(starts, description="gradients"):
        part = split.part(start, start + _GRADIENT_BATCH)
        loss = F.cross_entropy(
            scores(network, tensors(part.samples)), torch.from_numpy(part.labels)
        )
        gradients = torch.autograd.grad(
            loss, list(weights.values()), allow_unused=True, materialize_grads=True
        )
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            sums[name].gradient.add_(gradient.abs(), alpha=1 / len(starts))
            sums[name].taylor.add_((gradient * weight.detach()).abs(), alpha=1 / len(starts))
    return sums


@contextmanager
def _observing(
    layers: Mapping[str, SparsifiableLayer], observe: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Call `observe` with a layer's name and its input before each call of the layer."""

    def before(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        observe(name, args[0] if args else kwargs["input"])

    hooks = [
        layer.register_forward_pre_hook(partial(before, name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _tracked(samples: Samples, progress: Progress, label: str) -> Iterator[tuple[Tensor, ...]]:
    """Yield the samples in batches; the bar is gone afterwards: there may be one for each layer."""
    task = progress.add_task(label, total=-(-count(samples) // BATCH))
    for batch in batches(samples):
        yield batch
        progress.advance(task)
    progress.remove_task(task)

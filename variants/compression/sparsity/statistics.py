"""Statistics of layer inputs and of weight gradients, from which weights are scored.

    samples ─▶ network with hooks on its layers ─▶ sums over all inputs of each layer

Sums over inputs are FP64. Memory grows with the size of the layers, not with the number of samples.
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
from variants.model.forward import BATCH, batches, outputs, scores, tensors
from variants.model.gradients import gradient_errors

_GRADIENT_BATCH = 32
"""Samples per batch. |gradient| is averaged over batches, and gradients cancel in large ones."""


class _StopForward(Exception):
    """Raised in a hook to end a forward pass after the last call of interest."""


@dataclass(eq=False)
class InputMagnitudes:
    """Sums of |x| and x² over the inputs of a layer, by column of its weight matrix.

    Tensors are FP64 `[groups, columns]`.
    """

    number: int
    """Number of summed inputs."""
    absolute: Tensor
    squares: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean absolute value of each column."""
        return self.absolute / self.number

    @property
    def norm(self) -> Tensor:
        """L2 norm of each column."""
        return self.squares.sqrt()


@dataclass(frozen=True, eq=False)
class WeightGradients:
    """Gradients of the loss in the shape of the weight, averaged over batches."""

    gradient: Tensor
    """|g|"""
    taylor: Tensor
    """|w g|: first-order change of the loss if the weight is removed."""


def draw_samples(split: Split, number: int, seed: int) -> Split:
    """Return `number` random samples of the split in their order, or all if it has fewer."""
    number = min(number, len(split))
    chosen = np.random.default_rng(seed).choice(len(split), number, replace=False)
    return split.take(np.sort(chosen))


def count_calls(
    network: nn.Module, layers: Mapping[str, SparsifiableLayer], samples: Samples
) -> dict[str, int]:
    """Return the number of calls of each layer for one sample, in the order of the first calls.

    A layer that is never called as a module is missing, because its inputs cannot be observed.
    Examples are the projections inside `nn.MultiheadAttention`.
    """
    calls: dict[str, int] = {}

    def count_call(name: str, inputs: Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1

    with _observing(layers, count_call), torch.inference_mode():
        outputs(network.eval(), tensors(rows(samples, slice(0, 1))))
    return calls


def measure_input_magnitudes(
    network: nn.Module,
    layers: Mapping[str, SparsifiableLayer],
    samples: Samples,
    progress: Progress,
) -> dict[str, InputMagnitudes]:
    """Return the magnitudes of the inputs of each layer, in one pass over the samples.

    Layers whose inputs cannot be observed are missing; see `count_calls`.
    """
    magnitudes: dict[str, InputMagnitudes] = {}

    def add(name: str, inputs: Tensor) -> None:
        for part in unfold_inputs(layers[name], inputs):
            if name not in magnitudes:
                nothing = torch.zeros(part.shape[0], part.shape[2], dtype=torch.float64)
                magnitudes[name] = InputMagnitudes(0, nothing, nothing.clone())
            magnitudes[name].number += part.shape[1]
            magnitudes[name].absolute += part.abs().sum(dim=1, dtype=torch.float64)
            magnitudes[name].squares += part.square().sum(dim=1, dtype=torch.float64)

    with _observing(layers, add), torch.inference_mode():
        for batch in _tracked(samples, progress, "input magnitudes"):
            outputs(network.eval(), batch)
    return magnitudes


def measure_hessian(
    network: nn.Module, layer: SparsifiableLayer, calls: int, samples: Samples, progress: Progress
) -> Tensor:
    """Return X^T X / n of the inputs X of one layer, FP64 `[groups, columns, columns]`.

    `calls` is the number of calls of the layer per pass. Each pass stops at the last one, so the
    layers behind it are not computed.
    """
    size = layer.weight[0].numel()
    total = torch.zeros(count_groups(layer), size, size, dtype=torch.float64)
    number = left = 0

    def add(name: str, inputs: Tensor) -> None:
        nonlocal number, left
        for part in unfold_inputs(layer, inputs):
            # The products of a batch are in FP32: the rounding error is far below the damping.
            total.add_(part.mT @ part)
            number += part.shape[1]
        left -= 1
        if not left:
            raise _StopForward

    with _observing({"": layer}, add), torch.inference_mode():
        for batch in _tracked(samples, progress, "second moments"):
            left = calls
            try:
                outputs(network.eval(), batch)
            except _StopForward:
                continue
    return total / number


def measure_weight_gradients(
    network: nn.Module, layers: Mapping[str, SparsifiableLayer], split: Split, progress: Progress
) -> dict[str, WeightGradients]:
    """Return the gradients of the cross-entropy on labelled samples for the weights of each layer.

    They are computed on a copy of the network in evaluation mode, so normalizations are fixed.
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
        with gradient_errors("the network has no gradients, which other criteria do not need"):
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
    """Call `observe` with the name and the input of a layer before each call of the layer."""

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
    """Yield the samples in batches; remove the progress bar at the end, as each layer has one."""
    task = progress.add_task(label, total=-(-count(samples) // BATCH))
    for batch in batches(samples):
        yield batch
        progress.advance(task)
    progress.remove_task(task)

"""Scores of the importance of units, by criteria that are comparable within a network.

    magnitude    sum of the squares of all its weights and scales; needs no data
    activation   mean |x| of its values x where layers read them
    gradient     mean |dL/dx|, the sensitivity of the loss L
    taylor       (x dL/dx)², the squared first-order change of the loss if no layer read the unit
    random       uniform, as a control

Taylor is that of Molchanov et al. 2019 (arXiv:1906.10771, equation 8, with a gate on the unit
where it is read), averaged over small batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn

from variants.compression.pruning.group import Group
from variants.model.dataset import Split
from variants.model.forward import scores as network_scores
from variants.model.forward import tensors
from variants.model.gradients import differentiable_copy, gradient_errors

Criterion: TypeAlias = Literal["magnitude", "gradient", "activation", "taylor", "random"]
DEFAULT_SAMPLES: Final = 2048
"""Default number of validation samples on which units are scored."""

_NO_GRADIENTS: Final = (
    "the network has no gradients, which the criteria magnitude and random do not need"
)
_BATCH: Final = 16
"""Samples per batch, whose Taylor terms are summed before they are squared."""


def score(
    network: nn.Module,
    groups: Sequence[Group],
    split: Split,
    criterion: Criterion,
    seed: int,
    progress: Progress,
) -> dict[str, NDArray[np.float64]]:
    """Return the scores of all units by group, FP64 `[units]`; the loss is cross-entropy.

    The scores of a group are divided by their mean, to make groups comparable, as in DepGraph
    (arXiv:2301.12900, section 3.3). Use samples that the network was not trained on: on training
    samples the gradients of the loss are close to zero. Raises `ValueError` if a layer that reads a
    group is never called, for example because the network uses its weight directly.
    """
    if criterion == "random":
        random = np.random.default_rng(seed)
        return {group.name: random.random(group.size) for group in groups}
    if criterion == "magnitude":
        raw = _magnitudes(network, groups)
    else:
        raw = _input_scores(network, groups, split, criterion, progress)
    return {name: scores / (scores.mean() or 1.0) for name, scores in raw.items()}


def _magnitudes(network: nn.Module, groups: Sequence[Group]) -> dict[str, NDArray[np.float64]]:
    weights = {n: p.detach() for n, p in network.named_parameters() if not n.endswith("bias")}
    magnitudes = {}
    for group in groups:
        magnitudes[group.name] = np.zeros(group.size)
        for member in group.tensors:
            if member.name in weights:
                squares = weights[member.name].double().square().movedim(member.axis, 0)
                magnitudes[group.name] += _sum_by_unit(
                    squares.reshape(len(squares), -1).sum(1), member.units, group.size
                )
    return magnitudes


def _input_scores(
    network: nn.Module,
    groups: Sequence[Group],
    split: Split,
    criterion: Criterion,
    progress: Progress,
) -> dict[str, NDArray[np.float64]]:
    """Return the scores that depend on the values of the units: means over all samples, FP64."""
    network = differentiable_copy(network)
    total = {group.name: np.zeros(group.size) for group in groups}
    starts = range(0, len(split), _BATCH)
    for start in progress.track(starts, description=f"{criterion} of units"):
        batch = split.part(start, min(start + _BATCH, len(split)))
        with gradient_errors(_NO_GRADIENTS), _recorded_inputs(network, groups) as inputs_by_reader:
            answers = network_scores(network, tensors(batch.samples))
            F.cross_entropy(answers, torch.from_numpy(batch.labels), reduction="sum").backward()  # type: ignore[no-untyped-call]
        network.zero_grad()
        for group in groups:
            batch_scores = np.zeros(group.size)
            for reader, units in group.readers.items():
                if reader not in inputs_by_reader:
                    raise ValueError(
                        f"the inputs of {reader} cannot be observed: it is never called; the "
                        f"criterion magnitude does not need them"
                    )
                for values in inputs_by_reader[reader]:
                    batch_scores += _sum_by_unit(
                        _reduce_input(values, criterion), units, group.size
                    )
            total[group.name] += (
                batch_scores**2 / len(batch) if criterion == "taylor" else batch_scores
            )
    return {name: scores / len(split) for name, scores in total.items()}


def _reduce_input(values: Tensor, criterion: Criterion) -> Tensor:
    """Reduce the inputs of one layer, channels last, to one value for each channel."""
    values_read = values.detach().double()
    # The scores may not depend on what a layer reads, such as the head of another output.
    gradient = torch.zeros_like(values_read) if values.grad is None else values.grad.double()
    match criterion:
        case "activation":
            scores = values_read.abs()
        case "gradient":
            scores = gradient.abs()
        case _:
            scores = values_read * gradient
    return scores.reshape(-1, scores.shape[-1]).sum(0)


@contextmanager
def _recorded_inputs(
    network: nn.Module, groups: Sequence[Group]
) -> Iterator[dict[str, list[Tensor]]]:
    """Record the inputs of each reading layer, channels last, by name; they retain gradients."""
    inputs_by_reader: dict[str, list[Tensor]] = {}
    names = {reader for group in groups for reader in group.readers}
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(
            partial(_record_input, inputs_by_reader, name), with_kwargs=True
        )
        for name in sorted(names)
    ]
    try:
        yield inputs_by_reader
    finally:
        for hook in hooks:
            hook.remove()


def _record_input(
    inputs_by_reader: dict[str, list[Tensor]],
    name: str,
    reader: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # A separate tensor for each reader: the gradient of a shared one would sum over all readers.
    recorded = channels_last(reader, args[0] if args else kwargs["input"])
    recorded = recorded.view_as(recorded)
    recorded.retain_grad()
    inputs_by_reader.setdefault(name, []).append(recorded)
    module_input = channels_first(reader, recorded)
    return ((module_input, *args[1:]), kwargs) if args else (args, kwargs | {"input": module_input})


def channels_last(reader: nn.Module, values: Tensor) -> Tensor:
    """Return the input of a Linear (unchanged) or a convolution with its channels last."""
    return values if isinstance(reader, nn.Linear) else values.movedim(1, -1)


def channels_first(reader: nn.Module, values: Tensor) -> Tensor:
    """Return the input in the layout of the layer: the inverse of `channels_last`."""
    return values if isinstance(reader, nn.Linear) else values.movedim(-1, 1)


def _sum_by_unit(values: Tensor, units: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """Return the sums of the values by unit, `[size]`; positions of unit -1 are ignored."""
    sums = np.zeros(size)
    np.add.at(sums, units[units >= 0], values.numpy()[units >= 0])
    return sums

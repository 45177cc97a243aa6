"""What a unit is worth, by criteria that can be compared within a network.

    magnitude    squares of all its weights (and scales), summed over the group: no data needed
    activation   |x|, the mean of what layers read of it
    gradient     |dL/dx|, how strongly the loss reacts to it
    taylor       (x dL/dx)², the loss's change, to first order, if nothing read it
    random       the control: any criterion must beat it

Taylor as Molchanov et al. 2019 (arXiv:1906.10771, eq. 8, on a gate that multiplies the unit where
it is read), averaged over small batches.
"""

from __future__ import annotations

import copy
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

Criterion: TypeAlias = Literal["magnitude", "gradient", "activation", "taylor", "random"]
SAMPLES: Final = 2048
"""How many validation samples tell what units are worth, unless more or fewer are asked for."""

_BATCH: Final = 16
"""Samples whose Taylor terms are summed before they are squared."""


def score(
    network: nn.Module,
    groups: Sequence[Group],
    split: Split,
    criterion: Criterion,
    seed: int,
    progress: Progress,
) -> dict[str, NDArray[np.float64]]:
    """Return the worth of every unit by group, `[units]`, FP64; the loss is cross-entropy.

    To compare groups, each is divided by its mean, as in DepGraph (arXiv:2301.12900, section 3.3).
    Samples that the network was not trained on tell more: on those it was fitted to, the loss
    hardly has a gradient. Raises `ValueError` if a layer that reads a group is never called, as by
    code that only takes its weight.
    """
    if criterion == "random":
        random = np.random.default_rng(seed)
        return {group.name: random.random(group.size) for group in groups}
    if criterion == "magnitude":
        raw = _magnitudes(network, groups)
    else:
        raw = _readings(network, groups, split, criterion, progress)
    return {name: worth / (worth.mean() or 1.0) for name, worth in raw.items()}


def _magnitudes(network: nn.Module, groups: Sequence[Group]) -> dict[str, NDArray[np.float64]]:
    weights = {n: p.detach() for n, p in network.named_parameters() if not n.endswith("bias")}
    found = {}
    for group in groups:
        found[group.name] = np.zeros(group.size)
        for member in group.tensors:
            if member.tensor in weights:
                squares = weights[member.tensor].double().square().movedim(member.axis, 0)
                found[group.name] += _by_unit(
                    squares.reshape(len(squares), -1).sum(1), member.units, group.size
                )
    return found


def _readings(
    network: nn.Module,
    groups: Sequence[Group],
    split: Split,
    criterion: Criterion,
    progress: Progress,
) -> dict[str, NDArray[np.float64]]:
    """Return the criterion of what is read of each unit: a mean over all samples, in FP64."""
    network = copy.deepcopy(network).eval().requires_grad_(True)
    total = {group.name: np.zeros(group.size) for group in groups}
    starts = range(0, len(split), _BATCH)
    for start in progress.track(starts, description=f"{criterion} of units"):
        batch = split.part(start, min(start + _BATCH, len(split)))
        with _heard(network, groups) as heard:
            answers = network_scores(network, tensors(batch.samples))
            F.cross_entropy(answers, torch.from_numpy(batch.labels), reduction="sum").backward()  # type: ignore[no-untyped-call]
        network.zero_grad()
        for group in groups:
            said = np.zeros(group.size)
            for reader, units in group.readers.items():
                if reader not in heard:
                    raise ValueError(
                        f"what {reader} reads cannot be seen: it is never called; the criterion "
                        f"magnitude does without"
                    )
                for values in heard[reader]:
                    said += _by_unit(_read(values, criterion), units, group.size)
            total[group.name] += said**2 / len(batch) if criterion == "taylor" else said
    return {name: worth / len(split) for name, worth in total.items()}


def _read(values: Tensor, criterion: Criterion) -> Tensor:
    """Reduce what one layer read, the channels last, to one number for each of its inputs."""
    assert values.grad is not None
    read, gradient = values.detach().double(), values.grad.double()
    match criterion:
        case "activation":
            worth = read.abs()
        case "gradient":
            worth = gradient.abs()
        case _:
            worth = read * gradient
    return worth.reshape(-1, worth.shape[-1]).sum(0)


@contextmanager
def _heard(network: nn.Module, groups: Sequence[Group]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect what each layer reads, channels last, by its name; it will have a gradient."""
    heard: dict[str, list[Tensor]] = {}
    names = {reader for group in groups for reader in group.readers}
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(
            partial(_listen, heard, name), with_kwargs=True
        )
        for name in sorted(names)
    ]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _listen(
    heard: dict[str, list[Tensor]],
    name: str,
    reader: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # A tensor of its own for this reader: the gradient of a shared one holds every reader's part.
    last = channels_last(reader, args[0] if args else kwargs["input"])
    last = last.view_as(last)
    last.retain_grad()
    heard.setdefault(name, []).append(last)
    given = channels_first(reader, last)
    return ((given, *args[1:]), kwargs) if args else (args, kwargs | {"input": given})


def channels_last(reader: nn.Module, values: Tensor) -> Tensor:
    """Return what a Linear (already so) or a convolution reads with its channels last."""
    return values if isinstance(reader, nn.Linear) else values.movedim(1, -1)


def channels_first(reader: nn.Module, values: Tensor) -> Tensor:
    """Undo `channels_last`."""
    return values if isinstance(reader, nn.Linear) else values.movedim(-1, 1)


def _by_unit(values: Tensor, units: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """Sum the values of the places of each unit."""
    sums = np.zeros(size)
    np.add.at(sums, units[units >= 0], values.numpy()[units >= 0])
    return sums

"""Moves the outliers of activations into weights, where INT8 has a scale for each channel.

    producer (LayerNorm, Linear) ─▶ x ─▶ readers (Linears), and of an attention: value ─▶ output
    producer / s, readers * s: the same function, with x / s between them

Xiao et al. 2022, SmoothQuant (arXiv:2211.10438), equation 4: s_j = max|x_j|^a / max|w_j|^(1 - a).
Which producer feeds which readers is read from torch's exported program, never guessed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from rich.progress import Progress
from torch import Tensor, fx, nn
from torch.export import export

from variants.compression.quantization.channels import NotExact, find_readers
from variants.model.dataset import Samples, count, rows
from variants.model.forward import tensors

_ATEN: Final = torch.ops.aten
_BATCH: Final = 32


@dataclass(frozen=True)
class SmoothingGroup:
    """Who computes an activation, and all who read it, by the names of their parameters."""

    weight: str
    bias: str | None
    readers: tuple[str, ...]
    """Weights `[outputs, channels]` of Linears that read the activation and nothing else does."""


def find_groups(
    network: nn.Module, samples: Samples
) -> tuple[dict[str, SmoothingGroup], tuple[str, ...]]:
    """Return the groups that can be smoothed, by the node that computes the activation, and notes.

    The notes name the LayerNorms that cannot be, and why. Raises `ValueError` if the network
    cannot be traced.
    """
    names = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    return _groups(_trace(network, samples), names)


def largest_activations(
    network: nn.Module, samples: Samples, groups: Mapping[str, SmoothingGroup], progress: Progress
) -> dict[str, Tensor]:
    """Return max|x_j| over the samples, FP32 `[channels]`, by the node of each group.

    x is as the readers read it, which is what INT8 rounds: behind a ReLU or an attention it is
    smaller than what the producer computes. A last batch that is not full is left out, if it is
    not the only one.
    """
    size = min(_BATCH, count(samples))
    observer = _Observer(_trace(network, samples), groups)
    with torch.inference_mode():
        for number in progress.track(range(count(samples) // size), description="outliers"):
            batch = rows(samples, slice(number * size, (number + 1) * size))
            observer.run(*tensors(batch))
    return observer.largest


def smooth(network: nn.Module, group: SmoothingGroup, largest: Tensor, alpha: float) -> Tensor:
    """Divide the activation by s, in place: the producer by it, the readers' columns times it.

    Returns s, FP32 `[channels]`. Channels that are silent or unread keep s = 1.
    """
    readers = [network.get_parameter(name) for name in group.readers]
    with torch.no_grad():
        weights = torch.stack([reader.abs().amax(0) for reader in readers]).amax(0)
        scales = largest**alpha / weights ** (1 - alpha)
        scales = torch.where((largest > 0) & (weights > 0), scales, 1.0)
        weight = network.get_parameter(group.weight)
        weight.div_(scales.reshape(-1, *[1] * (weight.ndim - 1)))
        if group.bias is not None:
            network.get_parameter(group.bias).div_(scales)
        for reader in readers:
            reader.mul_(scales)
    return scales


def _trace(network: nn.Module, samples: Samples) -> fx.GraphModule:
    size = min(_BATCH, count(samples))
    try:
        program = export(network.eval(), tensors(rows(samples, slice(0, size))))
    except Exception as error:  # torch raises errors of its own, of many kinds
        raise ValueError(f"the network cannot be traced: {error}") from error
    return program.module()


def _groups(
    traced: fx.GraphModule, names: Collection[str]
) -> tuple[dict[str, SmoothingGroup], tuple[str, ...]]:
    groups, notes = {}, []
    for node in traced.graph.nodes:
        if node.target is _ATEN.layer_norm.default:
            weight, bias = (*node.args[2:4], None, None)[:2]
        elif node.target is _ATEN.linear.default:
            weight, bias = (*node.args[1:3], None)[:2]
        else:
            continue
        is_norm = node.target is _ATEN.layer_norm.default
        try:
            parameter = _own(weight, names)
            if is_norm and len(node.args[1]) > 1:
                raise NotExact("it normalises over several dimensions")
            shift = None if bias is None else _own(bias, names)
            readers = tuple(_own(reader.args[1], names) for reader in find_readers(node))
            groups[node.name] = SmoothingGroup(parameter, shift, readers)
        except NotExact as reason:
            if is_norm:
                name = weight.target if isinstance(weight, fx.Node) else node.name
                notes.append(f"{str(name).removesuffix('.weight')} is not smoothed: {reason}")
    return groups, tuple(notes)


def _own(parameter: Any, names: Collection[str]) -> str:
    """Return the name of a parameter, one of `names`, that is read once."""
    if not isinstance(parameter, fx.Node) or parameter.op != "get_attr":
        raise NotExact("it has no weights of its own")
    name = str(parameter.target)
    if name not in names:  # a buffer, or a tensor that the network knows nothing of
        raise NotExact(f"{name} is no parameter")
    read: list[fx.Node] = []
    for user in parameter.users:  # one may read it twice, as its input and as its weight
        fx.node.map_arg((user.args, user.kwargs), read.append)
    if read.count(parameter) != 1:
        raise NotExact(f"{name} is used more than once")
    return name


class _Observer(fx.Interpreter):
    """Runs a traced network and keeps the largest magnitude of each channel that readers read."""

    def __init__(self, traced: fx.GraphModule, groups: Mapping[str, SmoothingGroup]) -> None:
        super().__init__(traced)
        self.largest: dict[str, Tensor] = {}
        self._groups = {reader: node for node, group in groups.items() for reader in group.readers}

    def run_node(self, n: fx.Node) -> Any:
        if n.target is _ATEN.linear.default and (group := self._group(n.args[1])) is not None:
            (read, *_), _ = self.fetch_args_kwargs_from_env(n)
            largest = read.abs().reshape(-1, read.shape[-1]).amax(0)
            before = self.largest.get(group)
            self.largest[group] = largest if before is None else torch.maximum(before, largest)
        return super().run_node(n)

    def _group(self, weight: Any) -> str | None:
        return self._groups.get(str(weight.target)) if isinstance(weight, fx.Node) else None

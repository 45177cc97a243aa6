"""SmoothQuant: moves outliers of activations into weights, which have a scale for each channel.

    producer (LayerNorm, Linear) ─▶ x ─▶ readers (Linear layers); in attention: value ─▶ output
    producer / s, readers * s: the same function, with x / s in between

Xiao et al. 2022 (arXiv:2211.10438), equation 4: s_j = max|x_j|^a / max|w_j|^(1 - a).
The producer and the readers of an activation are found in the program that torch exports.
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
from variants.model.forward import first_line, tensors

_ATEN: Final = torch.ops.aten
_BATCH_SIZE: Final = 32


@dataclass(frozen=True)
class SmoothingGroup:
    """The layer that computes an activation and all layers that read it, by parameter name."""

    weight: str
    bias: str | None
    readers: tuple[str, ...]
    """Weights, `[outputs, channels]`, of the Linear layers that read the activation."""


def find_groups(
    network: nn.Module, samples: Samples
) -> tuple[dict[str, SmoothingGroup], tuple[str, ...]]:
    """Return the groups that can be smoothed, by the node of the activation, and notes.

    The notes name each LayerNorm that cannot be smoothed and the reason. Raises `ValueError` if
    the network cannot be traced.
    """
    names = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    return _groups(_trace(network, samples), names)


def largest_activations(
    network: nn.Module, samples: Samples, groups: Mapping[str, SmoothingGroup], progress: Progress
) -> dict[str, Tensor]:
    """Return max|x_j| over the samples, FP32 `[channels]`, by the node of each group.

    x is the input of the readers, which INT8 rounds. After a ReLU or an attention it is smaller
    than the producer's output. A last batch that is not full is skipped, unless it is the only one.
    """
    size = min(_BATCH_SIZE, count(samples))
    observer = _Observer(_trace(network, samples), groups)
    with torch.inference_mode():
        for number in progress.track(range(count(samples) // size), description="outliers"):
            batch = rows(samples, slice(number * size, (number + 1) * size))
            observer.run(*tensors(batch))
    return observer.largest


def smooth(network: nn.Module, group: SmoothingGroup, largest: Tensor, alpha: float) -> Tensor:
    """Divide the activation by s, in place: divide the producer, multiply the readers' columns.

    Return s, FP32 `[channels]`. s is 1 for channels whose activations or weights are all zero.
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
    size = min(_BATCH_SIZE, count(samples))
    try:
        program = export(network.eval(), tensors(rows(samples, slice(0, size))))
    except Exception as error:  # torch raises many types of its own
        raise ValueError(f"the network cannot be traced: {first_line(error)}") from error
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
            parameter = _parameter_name(weight, names)
            if is_norm and len(node.args[1]) > 1:
                raise NotExact("it normalizes over several dimensions")
            shift = None if bias is None else _parameter_name(bias, names)
            readers = tuple(_parameter_name(reader.args[1], names) for reader in find_readers(node))
            groups[node.name] = SmoothingGroup(parameter, shift, readers)
        except NotExact as reason:
            if is_norm:
                name = weight.target if isinstance(weight, fx.Node) else node.name
                notes.append(f"{str(name).removesuffix('.weight')} is not smoothed: {reason}")
    return groups, tuple(notes)


def _parameter_name(parameter: Any, names: Collection[str]) -> str:
    """Return the name of a node that is a parameter.

    Raises `NotExact` if it is not one of `names`, or if it is read more than once.
    """
    if not isinstance(parameter, fx.Node) or parameter.op != "get_attr":
        raise NotExact("it has no weights")
    name = str(parameter.target)
    if name not in names:  # a buffer, or a tensor that is not registered in the network
        raise NotExact(f"{name} is not a parameter")
    read: list[fx.Node] = []
    for user in parameter.users:  # one user may read it twice, as its input and as its weight
        fx.node.map_arg((user.args, user.kwargs), read.append)
    if read.count(parameter) != 1:
        raise NotExact(f"{name} is used more than once")
    return name


class _Observer(fx.Interpreter):
    """Runs a traced network and records the largest magnitude of each channel of the readers."""

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

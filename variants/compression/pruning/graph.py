"""Which units of any network can go, found by tracing it and proven on samples.

    network ─▶ torch-pruning's dependency graph, attention heads ─▶ groups ─▶ proof of each

The graph (Fang et al. 2023, DepGraph, arXiv:2301.12900) takes operations that it does not know for
elementwise ones. So no group is believed: half of its units are removed, the other half, and one,
and the answers must be those of the network in which nothing reads them. What fails is left alone,
by name.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

import numpy as np
import torch
import torch_pruning
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from variants.compression.pruning.attention import find_attentions, group_heads
from variants.compression.pruning.group import Group, GroupTensor, remove_units, zero_units
from variants.model.dataset import Samples, rows
from variants.model.forward import tensors
from variants.runtime.shape import CONVOLUTIONS, is_depthwise

TOLERANCE: Final = 1e-4
"""Largest difference of an answer in the proof, relative to the largest answer (FP32 rounding)."""
_PROVEN_SAMPLES: Final = 8
_ROOTS: Final = (nn.Linear, *CONVOLUTIONS, nn.Embedding)


@dataclass(frozen=True)
class UnitGroups:
    """The groups of a network in the order of its layers, and why others are left alone."""

    groups: tuple[Group, ...]
    notes: tuple[str, ...]

    def without(self, exclude: tuple[str, ...]) -> UnitGroups:
        """Leave out groups written by a layer that one of the patterns (`fnmatch`) names.

        Raises `ValueError` for a pattern that names none.
        """
        layers = sorted({layer for group in self.groups for layer in group.layers})
        for pattern in exclude:
            if not any(fnmatchcase(layer, pattern) for layer in layers):
                raise ValueError(f"exclude: {pattern!r} names none of {', '.join(layers)}")
        groups = tuple(
            group
            for group in self.groups
            if not any(fnmatchcase(layer, p) for layer in group.layers for p in exclude)
        )
        return UnitGroups(groups, self.notes)


class _UnsupportedLayer(Exception):
    pass


def find_unit_groups(network: nn.Module, samples: Samples) -> UnitGroups:
    """Find every group of units that can be removed; outputs and inputs of the network cannot.

    Of `samples`, inputs as the network takes them, the first few are used. The network is left as
    it is. Raises `ValueError` if it cannot be traced.
    """
    network = copy.deepcopy(network).eval().requires_grad_(True)
    inputs = tensors(rows(samples, slice(0, _PROVEN_SAMPLES)))
    with torch.no_grad():
        expected = _outputs(network, inputs)
    graph = _trace(network, inputs)
    shared = _shared(network)
    groups, notes = [], []
    for name, found in _candidates(network, graph):
        if isinstance(found, str):
            why: str | None = found
        elif tied := sorted({member.tensor for member in found.tensors} & shared):
            why = f"{', '.join(tied)} belongs to other layers, too"
        else:
            why = _fault(network, found, inputs, expected)
        if why:
            notes.append(f"{name} left alone: {why}")
        elif why == "" and isinstance(found, Group):
            groups.append(found)
    return UnitGroups(tuple(groups), tuple(notes))


def _trace(network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            return torch_pruning.DependencyGraph().build_dependency(network, inputs, verbose=False)
    except Exception as error:  # whatever breaks in there, the caller's network is not understood
        raise ValueError(f"the network's dependencies cannot be traced: {error}") from error


def _candidates(network: nn.Module, graph: Any) -> Iterator[tuple[str, Group | str]]:
    """Yield each group by name, or why it is none; every layer's outputs once."""
    found = find_attentions(network)
    parts = {
        attention.get_submodule(part)
        for attention in found.values()
        for part in ("query", "key", "value")
    }
    names = {module: name for name, module in network.named_modules()}
    covered: set[nn.Module] = set()
    for name, module in network.named_modules():
        if name in found:
            try:
                yield name, group_heads(name, module)
            except ValueError as error:
                yield name, str(error)
        if not isinstance(module, _ROOTS) or module not in graph.module2node or module in covered:
            continue
        try:
            items = _items(graph, module)
        except Exception as error:  # torch-pruning breaks in its own ways on what it cannot trace
            yield name, f"it cannot be traced: {_first_line(error)}"
            continue
        writers = [item for item in items if isinstance(item.module, _ROOTS) and item.is_output]
        covered |= {item.module for item in writers}
        if parts & {item.module for item in writers}:
            continue
        layers = tuple(n for m, n in names.items() if m in {item.module for item in writers})
        title = " + ".join(layers if len(layers) < 3 else (name, f"{len(layers) - 1} more"))
        try:
            tensors = [member for item in items for member in _members(item, names, graph)]
        except _UnsupportedLayer as reason:
            yield title, str(reason)
            continue
        yield (
            title,
            Group(
                name=title,
                kind="neurons",
                size=len(items[0].roots),
                layers=layers,
                tensors=tuple(tensors),
                is_normalized=any(isinstance(item.module, nn.LayerNorm) for item in items),
            ),
        )


@dataclass(frozen=True)
class _Item:
    """A module that a group touches: at its outputs or its inputs, and where."""

    module: Any
    is_output: bool
    places: tuple[int, ...]
    roots: tuple[int, ...]
    axis: int


def _items(graph: Any, module: nn.Module) -> list[_Item]:
    prune = graph.get_pruner_of_module(module).prune_out_channels
    width = graph.get_out_channels(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = graph.get_pruning_group(module, prune, list(range(width)))
    return [
        _Item(
            module=item.dep.target.module,
            is_output=graph.is_out_channel_pruning_fn(item.dep.handler),
            places=tuple(item.idxs),
            roots=tuple(item.root_idxs),
            axis=item.dep.target.pruning_dim,
        )
        for item in traced.items
    ]


def _members(item: _Item, names: dict[nn.Module, str], graph: Any) -> list[GroupTensor]:
    """Return where the group lies in a module's tensors; nothing for plain operations."""
    module = item.module
    if isinstance(module, nn.Parameter):
        axis = item.axis % module.ndim
        return [_member(graph._param_to_name[module], axis, module.shape[axis], item, "passes")]
    if module not in names:
        return []  # an operation that torch-pruning made up a module for
    name = names[module]
    if isinstance(module, (nn.Linear, *CONVOLUTIONS)) and not is_depthwise(module):
        if isinstance(module, CONVOLUTIONS) and module.groups > 1:
            raise _UnsupportedLayer(f"{name!r} is a grouped convolution")
        if not item.is_output:
            return [_member(f"{name}.weight", 1, module.weight.shape[1], item, "reads")]
        width = len(module.weight)
        keys = [key for key, _ in module.named_parameters(recurse=False)]
        return [_member(f"{name}.{key}", 0, width, item, "writes") for key in keys]
    if isinstance(module, nn.Embedding):
        return [_member(f"{name}.weight", 1, module.embedding_dim, item, "writes")]
    if isinstance(module, (_BatchNorm, nn.LayerNorm, nn.PReLU)) or is_depthwise(module):
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
            raise _UnsupportedLayer(f"{name!r} normalises over several dimensions")
        held = {key: t for key, t in module.state_dict().items() if t.ndim}
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:
            held = {}
        return [_member(f"{name}.{key}", 0, len(t), item, "passes") for key, t in held.items()]
    if any(True for _ in module.parameters()):
        raise _UnsupportedLayer(f"it reaches {name!r}, a {type(module).__name__}")
    return []


def _shared(network: nn.Module) -> set[str]:
    """Return the names of parameters that have several: removing from one would part them."""
    named = list(network.named_parameters(remove_duplicate=False))
    times = Counter(parameter for _, parameter in named)
    return {name for name, parameter in named if times[parameter] > 1}


def _member(tensor: str, axis: int, width: int, item: _Item, role: Any) -> GroupTensor:
    if max(item.places) >= width:
        raise _UnsupportedLayer(f"what it is to {tensor} cannot be traced")
    units = np.full(width, -1, np.int64)
    units[list(item.places)] = item.roots
    return GroupTensor(tensor, axis, units, role)


def _fault(
    network: nn.Module, group: Group, inputs: tuple[Tensor, ...], expected: list[Tensor]
) -> str | None:
    """Prove a group by removing units: "" if it holds, None if it is an output, else why."""
    if group.size < 2:
        return "it has a single unit"
    for kept in _proofs(group.size):
        fault = _fault_without(network, group, kept, inputs, expected)
        if fault != "":
            return fault
    return ""


def _proofs(size: int) -> list[NDArray[np.bool_]]:
    """Return what to keep of a group in its proof: a half, the other half, all but the first.

    One alone can pass by luck: a sum over the units before tells nothing of the last ones, and
    what reverses them nothing of halves that mirror themselves.
    """
    half = np.random.default_rng(size).permutation(np.arange(size) % 2 == 0)
    sets = {kept.tobytes(): kept for kept in (half, ~half, np.arange(size) > 0)}
    return list(sets.values())


def _fault_without(
    network: nn.Module,
    group: Group,
    kept: NDArray[np.bool_],
    inputs: tuple[Tensor, ...],
    expected: list[Tensor],
) -> str | None:
    with torch.no_grad():
        wanted = _outputs(zero_units(network, [group], {group.name: kept}), inputs)
        try:
            answers = _outputs(remove_units(network, [group], {group.name: kept}), inputs)
        except (RuntimeError, ValueError, IndexError) as error:
            return f"without some of its units the network fails: {_first_line(error)}"
    if any(a.shape != e.shape for a, e in zip(answers, expected, strict=True)):
        return None
    for answer, want in zip(answers, wanted, strict=True):
        off = float((answer - want).abs().max()) / (float(want.abs().max()) or 1.0)
        if not off <= TOLERANCE:
            return f"removing some of its units is not silencing them: answers differ by {off:.1e}"
    return ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _outputs(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    outputs = network(*inputs)
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)

"""Finds the groups of prunable units of a network by tracing, and verifies them on samples.

    network ─▶ torch-pruning's dependency graph, attention heads ─▶ groups ─▶ check of each

The graph (Fang et al. 2023, DepGraph, arXiv:2301.12900) treats unknown operations as elementwise.
Each group is therefore checked: half of its units, the other half, and one unit are removed, and
the outputs must equal those of the network in which no layer reads these units. Groups that fail
are not pruned, and a note names them.
"""

from __future__ import annotations

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
from variants.model.fast_path import without_fast_path
from variants.model.forward import first_line, outputs, tensors
from variants.model.gradients import differentiable_copy
from variants.runtime.shape import CONVOLUTIONS, is_depthwise

TOLERANCE: Final = 1e-4
"""Largest difference of an output in a check, relative to the largest output (FP32 rounding)."""
_CHECKED_SAMPLES: Final = 8
"""Number of samples that a group is checked on."""
_ROOTS: Final = (nn.Linear, *CONVOLUTIONS, nn.Embedding)


@dataclass(frozen=True)
class UnitGroups:
    """The prunable groups of a network in the order of its layers, and notes on all others."""

    groups: tuple[Group, ...]
    notes: tuple[str, ...]

    def exclude(self, patterns: tuple[str, ...]) -> UnitGroups:
        """Return the groups that are not produced by a layer that matches a pattern (`fnmatch`).

        Raises `ValueError` if a pattern matches no layer.
        """
        layers = sorted({layer for group in self.groups for layer in group.layers})
        for pattern in patterns:
            if not any(fnmatchcase(layer, pattern) for layer in layers):
                raise ValueError(
                    f"exclude: {pattern!r} matches no layer; the layers are {', '.join(layers)}"
                )
        groups = tuple(
            group
            for group in self.groups
            if not any(fnmatchcase(layer, p) for layer in group.layers for p in patterns)
        )
        return UnitGroups(groups, self.notes)


class _UnsupportedLayer(Exception):
    """Raised if a group reaches a layer whose pruning is not supported."""


def find_unit_groups(network: nn.Module, samples: Samples) -> UnitGroups:
    """Return every group of removable units; inputs and outputs of the network are not among them.

    The first few of `samples` are used, as inputs of the network. The network is not modified.
    Raises `ValueError` if it cannot be traced.
    """
    network = differentiable_copy(network)
    inputs = tensors(rows(samples, slice(0, _CHECKED_SAMPLES)))
    with torch.no_grad():
        expected = outputs(network, inputs)
    graph = _trace(network, inputs)
    shared = _shared_parameters(network)
    groups, notes = [], []
    for name, group_or_reason in _candidates(network, graph):
        if isinstance(group_or_reason, str):
            reason: str | None = group_or_reason
        elif tied := sorted({tensor.name for tensor in group_or_reason.tensors} & shared):
            reason = f"{', '.join(tied)} is shared with other layers"
        else:
            reason = _check_group(network, group_or_reason, inputs, expected)
        if reason:
            notes.append(f"{name} is not pruned: {reason}")
        elif reason == "" and isinstance(group_or_reason, Group):
            groups.append(group_or_reason)
    return UnitGroups(tuple(groups), tuple(notes))


def _trace(network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    try:
        with warnings.catch_warnings(), torch.enable_grad(), without_fast_path():
            warnings.simplefilter("ignore")
            return torch_pruning.DependencyGraph().build_dependency(network, inputs, verbose=False)
    except Exception as error:  # torch-pruning raises errors of any type for unknown networks
        raise ValueError(
            f"the network's dependencies cannot be traced: {first_line(error)}"
        ) from error


def _candidates(network: nn.Module, graph: Any) -> Iterator[tuple[str, Group | str]]:
    """Yield each group by name, or why it cannot be pruned; the outputs of each layer once."""
    attentions = find_attentions(network)
    parts = {
        attention.get_submodule(part)
        for attention in attentions.values()
        for part in ("query", "key", "value")
    }
    names = {module: name for name, module in network.named_modules()}
    covered: set[nn.Module] = set()
    for name, module in network.named_modules():
        if name in attentions:
            try:
                yield name, group_heads(name, module)
            except ValueError as error:
                yield name, str(error)
        if not isinstance(module, _ROOTS) or module not in graph.module2node or module in covered:
            continue
        try:
            dependencies = _dependencies(graph, module)
        except Exception as error:  # torch-pruning raises errors of any type for unknown layers
            yield name, f"it cannot be traced: {first_line(error)}"
            continue
        writers = {
            dependency.module
            for dependency in dependencies
            if isinstance(dependency.module, _ROOTS) and dependency.is_output
        }
        covered |= writers
        if parts & writers:
            continue
        layers = tuple(n for m, n in names.items() if m in writers)
        title = " + ".join(layers if len(layers) < 3 else (name, f"{len(layers) - 1} more"))
        try:
            tensors = [
                tensor
                for dependency in dependencies
                for tensor in _group_tensors(dependency, names, graph)
            ]
        except _UnsupportedLayer as reason:
            yield title, str(reason)
            continue
        yield (
            title,
            Group(
                name=title,
                kind="neurons",
                size=len(dependencies[0].roots),
                layers=layers,
                tensors=tuple(tensors),
                is_normalized=any(
                    isinstance(dependency.module, nn.LayerNorm) for dependency in dependencies
                ),
            ),
        )


@dataclass(frozen=True)
class _Dependency:
    """A module that depends on a group, at its outputs or at its inputs."""

    module: Any
    is_output: bool
    places: tuple[int, ...]
    roots: tuple[int, ...]
    axis: int


def _dependencies(graph: Any, module: nn.Module) -> list[_Dependency]:
    prune = graph.get_pruner_of_module(module).prune_out_channels
    width = graph.get_out_channels(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = graph.get_pruning_group(module, prune, list(range(width)))
    return [
        _Dependency(
            module=dependency.dep.target.module,
            is_output=graph.is_out_channel_pruning_fn(dependency.dep.handler),
            places=tuple(dependency.idxs),
            roots=tuple(dependency.root_idxs),
            axis=dependency.dep.target.pruning_dim,
        )
        for dependency in traced.items
    ]


def _group_tensors(
    dependency: _Dependency, names: dict[nn.Module, str], graph: Any
) -> list[GroupTensor]:
    """Return the tensors of a module that the group spans; none for operations without tensors."""
    module = dependency.module
    if isinstance(module, nn.Parameter):
        axis = dependency.axis % module.ndim
        return [
            _group_tensor(
                graph._param_to_name[module], axis, module.shape[axis], dependency, "passes"
            )
        ]
    if module not in names:
        return []  # torch-pruning represents operations by modules of its own
    name = names[module]
    if isinstance(module, (nn.Linear, *CONVOLUTIONS)) and not is_depthwise(module):
        if isinstance(module, CONVOLUTIONS) and module.groups > 1:
            raise _UnsupportedLayer(f"{name!r} is a grouped convolution")
        if not dependency.is_output:
            return [_group_tensor(f"{name}.weight", 1, module.weight.shape[1], dependency, "reads")]
        width = len(module.weight)
        keys = [key for key, _ in module.named_parameters(recurse=False)]
        return [_group_tensor(f"{name}.{key}", 0, width, dependency, "writes") for key in keys]
    if isinstance(module, nn.Embedding):
        return [_group_tensor(f"{name}.weight", 1, module.embedding_dim, dependency, "writes")]
    if isinstance(module, (_BatchNorm, nn.LayerNorm, nn.PReLU)) or is_depthwise(module):
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
            raise _UnsupportedLayer(f"{name!r} normalizes over several dimensions")
        vectors = {key: t for key, t in module.state_dict().items() if t.ndim}
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:
            vectors = {}
        return [
            _group_tensor(f"{name}.{key}", 0, len(t), dependency, "passes")
            for key, t in vectors.items()
        ]
    if any(True for _ in module.parameters()):
        raise _UnsupportedLayer(f"it reaches {name!r}, a {type(module).__name__}")
    return []


def _shared_parameters(network: nn.Module) -> set[str]:
    """Return the names of parameters that have several names: pruning one would separate them."""
    named = list(network.named_parameters(remove_duplicate=False))
    times = Counter(parameter for _, parameter in named)
    return {name for name, parameter in named if times[parameter] > 1}


def _group_tensor(
    tensor: str, axis: int, width: int, dependency: _Dependency, role: Any
) -> GroupTensor:
    if max(dependency.places) >= width:
        raise _UnsupportedLayer(f"its relation to {tensor} cannot be traced")
    units = np.full(width, -1, np.int64)
    units[list(dependency.places)] = dependency.roots
    return GroupTensor(tensor, axis, units, role)


def _check_group(
    network: nn.Module, group: Group, inputs: tuple[Tensor, ...], expected: tuple[Tensor, ...]
) -> str | None:
    """Check a group by removing units.

    Returns "" if it passes, None if it is an output of the network, else why it fails.
    """
    if group.size < 2:
        return "it has a single unit"
    for kept in _test_masks(group.size):
        reason = _check_removal(network, group, kept, inputs, expected)
        if reason != "":
            return reason
    return ""


def _test_masks(size: int) -> list[NDArray[np.bool_]]:
    """Return the masks of a check: a random half, the other half, and all units but the first.

    A single mask can pass by chance. For example, a cumulative sum does not depend on the last
    units, and a reversal does not change a symmetric half.
    """
    half = np.random.default_rng(size).permutation(np.arange(size) % 2 == 0)
    sets = {kept.tobytes(): kept for kept in (half, ~half, np.arange(size) > 0)}
    return list(sets.values())


def _check_removal(
    network: nn.Module,
    group: Group,
    kept: NDArray[np.bool_],
    inputs: tuple[Tensor, ...],
    expected: tuple[Tensor, ...],
) -> str | None:
    with torch.no_grad():
        expected_silenced = outputs(zero_units(network, [group], {group.name: kept}), inputs)
        try:
            answers = outputs(remove_units(network, [group], {group.name: kept}), inputs)
        except (RuntimeError, ValueError, IndexError) as error:
            return f"the network fails if some of its units are removed: {first_line(error)}"
    if any(a.shape != e.shape for a, e in zip(answers, expected, strict=True)):
        return None
    for answer, silenced in zip(answers, expected_silenced, strict=True):
        difference = float((answer - silenced).abs().max()) / (float(silenced.abs().max()) or 1.0)
        if not difference <= TOLERANCE:
            return (
                "removing some of its units affects the others, too: outputs differ by "
                f"{difference:.1e}"
            )
    return ""

"""Groups of prunable units of a network, and their removal.

A unit is a neuron, a channel or an attention head. The units of a group span the same positions of
several tensors: rows of the layers that write them, columns of the layers that read them.

    writes: rows of weights, biases ─▶ passes: normalization, depthwise ─▶ reads: columns of weights
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from variants.runtime.shape import replace_tensors

UnitMasks: TypeAlias = Mapping[str, NDArray[np.bool_]]
"""By group, BOOL `[units]`: False for units to remove. Missing groups are kept whole."""


@dataclass(frozen=True, eq=False)
class GroupTensor:
    """A tensor that a group spans along one axis."""

    name: str
    """Name in the `state_dict`."""
    axis: int
    units: NDArray[np.int64]
    """`[size of the axis]`: unit that each row or column belongs to, -1 for none of the group."""
    role: Literal["writes", "passes", "reads"]


@dataclass(frozen=True, eq=False)
class Group:
    """Units 0 to `size` - 1, each of which is removed from all tensors of the group at once."""

    name: str
    """Names of the layers that write the units: `stem + narrow`, `embedding + 4 more`."""
    kind: Literal["neurons", "heads"]
    size: int
    layers: tuple[str, ...]
    tensors: tuple[GroupTensor, ...]
    is_normalized: bool = False
    """Whether a LayerNorm normalizes over the units, so that removing one changes the others."""

    @property
    def readers(self) -> dict[str, NDArray[np.int64]]:
        """The unit of each input, by name of each layer that reads the group."""
        return {m.name.rpartition(".")[0]: m.units for m in self.tensors if m.role == "reads"}


class ParameterCounter:
    """Counts the parameters of a pruned network without building it."""

    def __init__(self, network: nn.Module, groups: Sequence[Group]) -> None:
        self._shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
        self._group_tensors = [(group, m) for group in groups for m in group.tensors]
        self.total = sum(parameter.numel() for parameter in network.parameters())

    def count_kept(self, kept: UnitMasks) -> int:
        """Return the number of parameters that remain."""
        shapes = {name: list(shape) for name, shape in self._shapes.items()}
        for group, tensor in self._group_tensors:
            if group.name in kept and tensor.name in shapes:
                removed = ~_axis_mask(tensor, kept[group.name])
                shapes[tensor.name][tensor.axis] -= int(removed.sum())
        return sum(int(np.prod(shape)) for shape in shapes.values())


def remove_units(network: nn.Module, groups: Sequence[Group], kept: UnitMasks) -> nn.Module:
    """Return a copy without the units that `kept` marks False, with physically smaller layers.

    Its outputs equal those of `zero_units`. Raises `ValueError` if a group would lose all units.
    """
    network = copy.deepcopy(network)
    tensors = network.state_dict()
    smaller: dict[str, Tensor] = {}
    for (name, axis), keep in _axis_masks(groups, kept).items():
        index = torch.from_numpy(keep.nonzero()[0])
        smaller[name] = smaller.get(name, tensors[name]).index_select(axis, index)
    replace_tensors(network, smaller)
    return network


def update_groups(groups: Sequence[Group], kept: UnitMasks) -> list[Group]:
    """Return the groups of the network that `remove_units` returns, with units renumbered."""
    masks = _axis_masks(groups, kept)
    updated = []
    for group in groups:
        kept_units = kept.get(group.name, np.ones(group.size, dtype=bool))
        # The last element keeps unit -1, none of the group, at -1.
        new_numbers = np.append(np.cumsum(kept_units) - 1, -1)
        tensors = []
        for tensor in group.tensors:
            units = new_numbers[tensor.units]
            if (keep := masks.get((tensor.name, tensor.axis))) is not None:
                units = units[keep]
            tensors.append(replace(tensor, units=units))
        updated.append(replace(group, size=int(kept_units.sum()), tensors=tuple(tensors)))
    return updated


def zero_units(network: nn.Module, groups: Sequence[Group], kept: UnitMasks) -> nn.Module:
    """Return a copy of the same shape in which no layer reads the units that `kept` marks False.

    A LayerNorm over such units normalizes the others only.
    """
    network = copy.deepcopy(network)
    tensors = network.state_dict()
    for group, tensor in _pruned_tensors(groups, kept):
        kept_units = torch.from_numpy(_axis_mask(tensor, kept[group.name]))
        if tensor.role == "reads":
            shape = [1] * tensors[tensor.name].ndim
            shape[tensor.axis] = -1
            tensors[tensor.name].mul_(kept_units.view(shape))
        owner = network.get_submodule(tensor.name.rpartition(".")[0])
        if isinstance(owner, nn.LayerNorm) and tensor.name.endswith(".weight"):
            owner.register_forward_hook(_PartialLayerNorm(kept_units), with_kwargs=True)
    return network


class _PartialLayerNorm:
    """Forward hook of a LayerNorm: normalizes the kept channels, and returns 0 for the others."""

    def __init__(self, kept_units: Tensor) -> None:
        self._kept = kept_units

    def __call__(
        self,
        norm: nn.LayerNorm,
        args: tuple[Tensor, ...],
        kwargs: Mapping[str, Tensor],
        output: Tensor,
    ) -> Tensor:
        kept_units = self._kept
        inputs = args[0] if args else kwargs["input"]
        bias = None if norm.bias is None else norm.bias[kept_units]
        shape = (int(kept_units.sum()),)
        normalized = torch.zeros_like(output)
        normalized[..., kept_units] = nn.functional.layer_norm(
            inputs[..., kept_units], shape, norm.weight[kept_units], bias, norm.eps
        )
        return normalized


def _axis_masks(
    groups: Sequence[Group], kept: UnitMasks
) -> dict[tuple[str, int], NDArray[np.bool_]]:
    """Return by tensor and axis what to keep of it, over all groups that span it."""
    masks: dict[tuple[str, int], NDArray[np.bool_]] = {}
    for group, tensor in _pruned_tensors(groups, kept):
        mask = masks.setdefault((tensor.name, tensor.axis), np.ones(len(tensor.units), bool))
        mask &= _axis_mask(tensor, kept[group.name])
    return masks


def _pruned_tensors(groups: Sequence[Group], kept: UnitMasks) -> list[tuple[Group, GroupTensor]]:
    for group in groups:
        if group.name in kept and not kept[group.name].any():
            raise ValueError(f"layer {group.name!r} would lose all its {group.kind}")
    return [(group, m) for group in groups if group.name in kept for m in group.tensors]


def _axis_mask(tensor: GroupTensor, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return (tensor.units < 0) | kept[tensor.units]

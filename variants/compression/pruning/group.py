"""Units of a network that can be taken out whole: what belongs to each, and taking them out.

A unit is a neuron, a channel or an attention head. Units that can only go together in the same
places of several tensors (rows of what writes them, columns of what reads them) are a group:

    writes: rows of weights, biases ─▶ passes: normalisation, depthwise ─▶ reads: columns of weights
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
"""By group, BOOL `[units]`: False for those that go. Groups that are not in it stay whole."""


@dataclass(frozen=True, eq=False)
class GroupTensor:
    """Where a group lies in one tensor of the network."""

    tensor: str
    """Its name in the `state_dict`."""
    axis: int
    units: NDArray[np.int64]
    """`[size of the axis]`: which unit each row or column belongs to, -1 for none of the group."""
    role: Literal["writes", "passes", "reads"]


@dataclass(frozen=True, eq=False)
class Group:
    """Units 0 to `size` - 1, each of which can be taken out of all members at once."""

    name: str
    """After the layers that write the units: `stem + narrow`, `embedding + 4 more`."""
    kind: Literal["neurons", "heads"]
    size: int
    layers: tuple[str, ...]
    tensors: tuple[GroupTensor, ...]
    is_normalized: bool = False
    """Whether a LayerNorm runs over the units, so that those which stay feel those which go."""

    @property
    def readers(self) -> dict[str, NDArray[np.int64]]:
        """By the name of each layer that reads the group: the unit of each of its inputs."""
        return {m.tensor.rpartition(".")[0]: m.units for m in self.tensors if m.role == "reads"}


class ParameterCounter:
    """Counts the parameters a network would have left, without making it."""

    def __init__(self, network: nn.Module, groups: Sequence[Group]) -> None:
        self._shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
        self._members = [(group, m) for group in groups for m in group.tensors]
        self.total = sum(parameter.numel() for parameter in network.parameters())

    def left(self, kept: UnitMasks) -> int:
        """Return how many parameters stay."""
        shapes = {name: list(shape) for name, shape in self._shapes.items()}
        for group, member in self._members:
            if group.name in kept and member.tensor in shapes:
                gone = ~_axis_mask(member, kept[group.name])
                shapes[member.tensor][member.axis] -= int(gone.sum())
        return sum(int(np.prod(shape)) for shape in shapes.values())


def remove_units(network: nn.Module, groups: Sequence[Group], kept: UnitMasks) -> nn.Module:
    """Return a copy without the units that `kept` marks False, its layers physically smaller.

    Its answers are those of `zero_units`. Raises `ValueError` if a group would be left with no unit.
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
    """Return the groups as they are in the network that `remove_units` makes, units numbered anew."""
    staying = _axis_masks(groups, kept)
    left = []
    for group in groups:
        stays = kept.get(group.name, np.ones(group.size, dtype=bool))
        number = np.append(np.cumsum(stays) - 1, -1)  # unit -1, none of the group, stays -1
        tensors = []
        for member in group.tensors:
            units = number[member.units]
            if (keep := staying.get((member.tensor, member.axis))) is not None:
                units = units[keep]
            tensors.append(replace(member, units=units))
        left.append(replace(group, size=int(stays.sum()), tensors=tuple(tensors)))
    return left


def zero_units(network: nn.Module, groups: Sequence[Group], kept: UnitMasks) -> nn.Module:
    """Return a copy of the same shape in which no layer hears the units that `kept` marks False.

    Where a LayerNorm runs over such units, it sees only the others.
    """
    network = copy.deepcopy(network)
    tensors = network.state_dict()
    for group, member in _chosen(groups, kept):
        stays = torch.from_numpy(_axis_mask(member, kept[group.name]))
        if member.role == "reads":
            shape = [1] * tensors[member.tensor].ndim
            shape[member.axis] = -1
            tensors[member.tensor].mul_(stays.view(shape))
        owner = network.get_submodule(member.tensor.rpartition(".")[0])
        if isinstance(owner, nn.LayerNorm) and member.tensor.endswith(".weight"):
            owner.register_forward_hook(_PartialLayerNorm(stays), with_kwargs=True)
    return network


class _PartialLayerNorm:
    """Replaces what a LayerNorm says by what it says of some of its channels, 0 for the others."""

    def __init__(self, stays: Tensor) -> None:
        self._kept = stays

    def __call__(
        self,
        norm: nn.LayerNorm,
        args: tuple[Tensor, ...],
        kwargs: Mapping[str, Tensor],
        output: Tensor,
    ) -> Tensor:
        stays = self._kept
        given = args[0] if args else kwargs["input"]
        bias = None if norm.bias is None else norm.bias[stays]
        shape = (int(stays.sum()),)
        said = torch.zeros_like(output)
        said[..., stays] = nn.functional.layer_norm(
            given[..., stays], shape, norm.weight[stays], bias, norm.eps
        )
        return said


def _axis_masks(
    groups: Sequence[Group], kept: UnitMasks
) -> dict[tuple[str, int], NDArray[np.bool_]]:
    """Return what stays of each axis of each tensor that groups, several perhaps, lie in."""
    staying: dict[tuple[str, int], NDArray[np.bool_]] = {}
    for group, member in _chosen(groups, kept):
        here = staying.setdefault((member.tensor, member.axis), np.ones(len(member.units), bool))
        here &= _axis_mask(member, kept[group.name])
    return staying


def _chosen(groups: Sequence[Group], kept: UnitMasks) -> list[tuple[Group, GroupTensor]]:
    for group in groups:
        if group.name in kept and not kept[group.name].any():
            raise ValueError(f"layer {group.name!r} would be left without {group.kind}")
    return [(group, m) for group in groups if group.name in kept for m in group.tensors]


def _axis_mask(member: GroupTensor, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return (member.units < 0) | kept[member.units]

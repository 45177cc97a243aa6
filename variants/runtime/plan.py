"""How a network differs from what the factory builds, so that it can be rebuilt.

    network ─▶ Plan (JSON) + tensors (safetensors) ─▶ the factory's network, altered ─▶ network

The plan names the modules that stand in for others. Layers that became smaller need no plan: the
shapes of their tensors say it.
"""

from __future__ import annotations

import copy
from typing import Literal

import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor, nn

from variants.catalog.record import Record
from variants.runtime.linear24 import Linear24
from variants.runtime.low_rank import LowRank
from variants.runtime.shape import replace_tensors

PLAN = "plan.json"
WEIGHTS = "weights.safetensors"


class ReplacedLayer(Record):
    """What stands where the factory builds an `nn.Linear`: its weight packed, or two thinner ones.

    A layer may be within another: `inner.first`, packed, in `inner`, of low rank.
    """

    kind: Literal["linear-2:4", "low-rank"]
    in_features: int = Field(ge=1)
    out_features: int = Field(ge=1)
    rank: int | None = Field(default=None, ge=1)


class Plan(Record):
    """Every replaced layer of a network by its name in it; outer ones before inner ones."""

    layers: dict[str, ReplacedLayer]


def describe(network: nn.Module, packed: frozenset[str]) -> tuple[Plan, dict[str, Tensor]]:
    """Return the plan of a network and the tensors to store; those of `packed` layers packed.

    Raises `ValueError` if the weight of a packed layer is not 2:4 sparse.
    """
    network = copy.deepcopy(network)
    layers = {}
    for name, module in [*network.named_modules(remove_duplicate=False)]:
        if isinstance(module, LowRank):
            layers[name] = ReplacedLayer(
                kind="low-rank",
                in_features=module.in_features,
                out_features=module.out_features,
                rank=module.first.out_features,
            )
        if name in packed and isinstance(module, nn.Linear):
            layers[name] = ReplacedLayer(
                kind="linear-2:4",
                in_features=module.in_features,
                out_features=module.out_features,
            )
            network.set_submodule(name, Linear24.from_linear(module))
    if missing := packed - layers.keys():
        raise ValueError(f"not Linear layers of the network, to be packed: {sorted(missing)}")
    return Plan(layers=layers), storable_tensors(network)


def storable_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of a network's tensors by name, as safetensors takes them.

    It refuses those that share memory, as tied weights do, and other layouts, as channels_last.
    """
    state = network.state_dict()
    return {name: t.clone(memory_format=torch.contiguous_format) for name, t in state.items()}


def rebuild(network: nn.Module, plan: Plan, weights: bytes) -> nn.Module:
    """Alter the factory's network to the plan and put the tensors into it, whatever their shapes.

    Raises `ValueError` that names what of the plan or of the tensors does not fit the network.
    """
    tensors = safetensors.torch.load(weights)
    for name, layer in plan.layers.items():
        network.set_submodule(name, _replacement(network, name, layer, tensors))
    present = network.state_dict()
    if missing := present.keys() - tensors.keys():
        raise ValueError(f"the tensors do not fit the plan: there is no {_some(missing)}")
    if unknown := tensors.keys() - present.keys():
        raise ValueError(f"the tensors do not fit the plan: the network has no {_some(unknown)}")
    for name, tensor in tensors.items():
        if tensor.ndim != present[name].ndim or tensor.dtype != present[name].dtype:
            raise ValueError(
                f"the tensors do not fit the plan: {name} is {tensor.dtype} {list(tensor.shape)}, "
                f"the factory builds {present[name].dtype} {list(present[name].shape)}"
            )
    replace_tensors(network, tensors)
    return network


def _replacement(
    network: nn.Module, name: str, layer: ReplacedLayer, tensors: dict[str, Tensor]
) -> nn.Module:
    try:
        replaced = network.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f"the plan has a layer {name!r}, the factory builds none") from error
    if not isinstance(replaced, nn.Linear):
        raise ValueError(
            f"the plan has a {layer.kind} layer {name!r}, the factory builds a "
            f"{type(replaced).__name__} there"
        )
    has_bias = replaced.bias is not None
    if layer.kind == "low-rank":
        if layer.rank is None:
            raise ValueError(f"the plan's layer {name!r} is of low rank, but says not of which")
        return LowRank(layer.in_features, layer.rank, layer.out_features, bias=has_bias)
    wanted = ["values", "indices", "bias"] if has_bias else ["values", "indices"]
    if missing := {f"{name}.{key}" for key in wanted} - tensors.keys():
        raise ValueError(f"the tensors do not fit the plan: there is no {_some(missing)}")
    values, indices, *bias = (tensors[f"{name}.{key}"] for key in wanted)
    return Linear24(values, indices, bias[0] if bias else None)


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (" ..." if len(names) > 5 else "")

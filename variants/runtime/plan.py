"""Plans: how to rebuild a compressed network from the network that the factory builds.

    network ─▶ Plan (JSON) + tensors (safetensors)
    network of the factory, plan, tensors ─▶ network

The plan lists replaced modules. Layers that only became smaller are not listed, since the shapes of
their tensors determine them.
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
    """Replacement of an `nn.Linear` of the factory: a packed or a low-rank layer.

    Layers can be nested, such as a packed `inner.first` within a low-rank `inner`.
    """

    kind: Literal["linear-2:4", "low-rank"]
    in_features: int = Field(ge=1)
    out_features: int = Field(ge=1)
    rank: int | None = Field(default=None, ge=1)


class Plan(Record):
    """The replaced layers of a network by name; outer layers come before inner ones."""

    layers: dict[str, ReplacedLayer]


def make_plan(network: nn.Module, packed: frozenset[str]) -> tuple[Plan, dict[str, Tensor]]:
    """Return the plan of a network and the tensors to store. Layers in `packed` are packed.

    Raises `ValueError` if the weight of a layer in `packed` is not 2:4 sparse.
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
        raise ValueError(f"cannot pack, not Linear layers of the network: {sorted(missing)}")
    return Plan(layers=layers), storable_tensors(network)


def storable_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of the tensors of a network by name, in a form safetensors accepts.

    safetensors rejects tensors that share memory (tied weights) and other memory layouts
    (channels_last).
    """
    state = network.state_dict()
    return {name: t.clone(memory_format=torch.contiguous_format) for name, t in state.items()}


def rebuild(network: nn.Module, plan: Plan, weights: bytes) -> nn.Module:
    """Modify the network of the factory by the plan and load the tensors, whatever their shapes.

    Raises `ValueError` with the layers or tensors that do not fit the network.
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
                f"the network has {present[name].dtype} {list(present[name].shape)}"
            )
    replace_tensors(network, tensors)
    return network


def _replacement(
    network: nn.Module, name: str, layer: ReplacedLayer, tensors: dict[str, Tensor]
) -> nn.Module:
    try:
        replaced = network.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f"the plan has a layer {name!r}, the network has none") from error
    if not isinstance(replaced, nn.Linear):
        raise ValueError(
            f"the plan has a {layer.kind} layer {name!r}, the network has a "
            f"{type(replaced).__name__} there"
        )
    has_bias = replaced.bias is not None
    if layer.kind == "low-rank":
        if layer.rank is None:
            raise ValueError(f"the plan has a low-rank layer {name!r} without a rank")
        return LowRank(layer.in_features, layer.rank, layer.out_features, bias=has_bias)
    keys = ["values", "indices", "bias"] if has_bias else ["values", "indices"]
    if missing := {f"{name}.{key}" for key in keys} - tensors.keys():
        raise ValueError(f"the tensors do not fit the plan: there is no {_some(missing)}")
    values, indices, *bias = (tensors[f"{name}.{key}"] for key in keys)
    return Linear24(values, indices, bias[0] if bias else None)


def _some(names: set[str]) -> str:
    """List the first five names."""
    return ", ".join(sorted(names)[:5]) + (" ..." if len(names) > 5 else "")

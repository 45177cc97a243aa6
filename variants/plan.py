"""Which layers of a network differ from what the factory builds, so that it can be rebuilt.

network ─▶ Plan (JSON) + tensors (safetensors) ─▶ the factory's network, altered ─▶ network
"""

from __future__ import annotations

import copy
from typing import Literal

import safetensors.torch
from pydantic import Field
from torch import Tensor, nn

from variants.linear24 import Linear24
from variants.record import Record

PLAN = "plan.json"
WEIGHTS = "weights.safetensors"


class Layer(Record):
    """A Linear layer: whether its weight is stored packed, and its shape."""

    kind: Literal["linear", "linear-2:4"]
    in_features: int = Field(ge=1)
    out_features: int = Field(ge=1)


class Plan(Record):
    """Every Linear layer of a network by its name in it."""

    layers: dict[str, Layer]


def describe(network: nn.Module, packed: frozenset[str]) -> tuple[Plan, dict[str, Tensor]]:
    """Return the plan of a network and the tensors to store; those of `packed` layers packed.

    Raises `ValueError` if the weight of a packed layer is not 2:4 sparse.
    """
    network = copy.deepcopy(network)
    layers = {}
    for name, linear in linears(network).items():
        layers[name] = Layer(
            kind="linear-2:4" if name in packed else "linear",
            in_features=linear.in_features,
            out_features=linear.out_features,
        )
        if name in packed:
            network.set_submodule(name, Linear24.from_linear(linear))
    return Plan(layers=layers), network.state_dict()


def rebuild(network: nn.Module, plan: Plan, weights: bytes) -> nn.Module:
    """Alter the factory's network to the plan and load the tensors into it.

    Raises `ValueError` if the plan or the tensors do not fit the network.
    """
    tensors = safetensors.torch.load(weights)
    found = linears(network)
    if found.keys() != plan.layers.keys():
        raise ValueError(
            f"the plan has the layers {sorted(plan.layers)}, the factory builds {sorted(found)}"
        )
    for name, layer in plan.layers.items():
        has_bias = found[name].bias is not None
        if layer.kind == "linear-2:4":
            bias = tensors[f"{name}.bias"] if has_bias else None
            packed = Linear24(tensors[f"{name}.values"], tensors[f"{name}.indices"], bias)
            network.set_submodule(name, packed)
        else:
            linear = nn.Linear(layer.in_features, layer.out_features, bias=has_bias)
            network.set_submodule(name, linear)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"the tensors do not fit the plan: {error}") from error
    return network


def linears(network: nn.Module) -> dict[str, nn.Linear]:
    """Every `nn.Linear` of a network by name, in the order of its modules."""
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.Linear)}

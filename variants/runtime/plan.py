"""Plans: how to rebuild a compressed network from the network that the factory builds.

    network ─▶ Plan (JSON) + tensors (safetensors)
    network of the factory, plan, tensors ─▶ network

The plan lists replaced modules. Layers that only became smaller are not listed, since the shapes of
their tensors determine them. The rebuilt network has ordinary Linear layers with zeros;
`variants.runtime.sparse.network` replaces them by kernels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias

import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor, nn

from variants.catalog.record import Record
from variants.runtime.kernels.packing import MAX_INPUTS_INT8
from variants.runtime.low_rank import LowRank
from variants.runtime.shape import replace_tensors
from variants.runtime.sparse.forms import FORMS, SparseKind, is_2_of_4, sparse_kind
from variants.runtime.sparse.fusion import is_followed_by_relu

PLAN = "plan.json"
WEIGHTS = "weights.safetensors"

Kind: TypeAlias = SparseKind | Literal["low-rank"]


class ReplacedLayer(Record):
    """Replacement of an `nn.Linear` of the factory: a packed or a low-rank layer.

    Layers can be nested, such as a packed `inner.first` within a low-rank `inner`.
    """

    kind: Kind
    in_features: int = Field(ge=1)
    out_features: int = Field(ge=1)
    rank: int | None = Field(default=None, ge=1)
    activation: Literal["none", "relu"] = "none"
    """`relu` if the next module of an `nn.Sequential` is a ReLU, which the kernel computes too."""
    rows: int = Field(default=1, ge=1)
    """Rows of the input per sample, such as the number of tokens, of a typical sample."""


class Plan(Record):
    """The replaced layers of a network by name; outer layers come before inner ones."""

    layers: dict[str, ReplacedLayer]

    @property
    def packed(self) -> dict[str, ReplacedLayer]:
        """The layers that are stored without their zeros."""
        return {name: layer for name, layer in self.layers.items() if layer.kind != "low-rank"}


def make_plan(
    network: nn.Module,
    packed: Collection[str],
    *,
    quantized: Collection[str] = (),
    rows: Mapping[str, int] | None = None,
) -> tuple[Plan, dict[str, Tensor]]:
    """Return the plan of a network and the tensors to store. Layers in `packed` are packed.

    Of these, the weights of the layers in `quantized` are stored in INT8 if they are 2:4 sparse and
    have at most `MAX_INPUTS_INT8` inputs, and in FP32 otherwise.
    `rows` are the rows per sample by layer, if they are known.

    Raises `ValueError` if the weight of a layer in `packed` is neither 2:4 sparse nor has enough
    zeros, or contains a NaN or an infinity.
    """
    layers: dict[str, ReplacedLayer] = {}
    tensors = storable_tensors(network)
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, LowRank):
            layers[name] = ReplacedLayer(
                kind="low-rank",
                in_features=module.in_features,
                out_features=module.out_features,
                rank=module.first.out_features,
            )
        if name in packed and isinstance(module, nn.Linear):
            weight = tensors.pop(f"{name}.weight")
            if not bool(weight.isfinite().all()):
                raise ValueError(f"cannot pack layer {name}: its weight has a NaN or an infinity")
            kind = _kind(weight, is_quantized=name in quantized)
            stored = FORMS[kind].store(weight)
            tensors |= {f"{name}.{key}": tensor for key, tensor in stored.items()}
            layers[name] = ReplacedLayer(
                kind=kind,
                in_features=module.in_features,
                out_features=module.out_features,
                activation="relu" if is_followed_by_relu(network, name) else "none",
                rows=(rows or {}).get(name, 1),
            )
    if missing := {*packed} - layers.keys():
        raise ValueError(f"cannot pack, not Linear layers of the network: {sorted(missing)}")
    return Plan(layers=layers), tensors


def storable_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of the tensors of a network by name, in a form safetensors accepts.

    safetensors rejects tensors that share memory (tied weights) and other memory layouts
    (channels_last).
    """
    state = network.state_dict()
    return {name: t.clone(memory_format=torch.contiguous_format) for name, t in state.items()}


def rebuild(network: nn.Module, plan: Plan, weights: bytes) -> nn.Module:
    """Modify the network of the factory by the plan and load the tensors, whatever their shapes.

    Packed layers become ordinary Linear layers, whose weights contain the zeros. Raises
    `ValueError` with the layers or tensors that do not fit the network.
    """
    return restore(network, plan, safetensors.torch.load(weights))


def restore(network: nn.Module, plan: Plan, stored: Mapping[str, Tensor]) -> nn.Module:
    """Do what `rebuild` does, with the tensors of the file by name."""
    tensors = dict(stored)
    for name, layer in plan.layers.items():
        replaced = _replaced(network, name, layer)
        _require_no_larger(name, layer, replaced)
        if layer.kind == "low-rank":
            network.set_submodule(name, _low_rank(name, layer, has_bias=replaced.bias is not None))
        else:
            parts = packed_tensors(tensors, name, layer)
            tensors = {key: t for key, t in tensors.items() if key not in _keys(name, layer.kind)}
            tensors[f"{name}.weight"] = _unpack(name, layer, parts)
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


def packed_tensors(
    tensors: Mapping[str, Tensor], name: str, layer: ReplacedLayer
) -> dict[str, Tensor]:
    """Return the tensors of a packed layer by the names of its form.

    Raises `ValueError` if one is missing.
    """
    keys = _keys(name, layer.kind)
    if missing := keys.keys() - tensors.keys():
        raise ValueError(f"the tensors do not fit the plan: there is no {_some(missing)}")
    return {part: tensors[key] for key, part in keys.items()}


def _kind(weight: Tensor, *, is_quantized: bool) -> SparseKind:
    if is_quantized and weight.shape[1] <= MAX_INPUTS_INT8 and is_2_of_4(weight):
        return "linear-2:4-int8"
    # A weight without a form is rejected when it is packed.
    return sparse_kind(weight) or "linear-2:4"


def _keys(name: str, kind: Kind) -> dict[str, str]:
    """Return the names of the tensors of a packed layer in its form, by those in the file."""
    return {} if kind == "low-rank" else {f"{name}.{part}": part for part in FORMS[kind].tensors}


def _replaced(network: nn.Module, name: str, layer: ReplacedLayer) -> nn.Linear:
    try:
        replaced = network.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f"the plan has a layer {name!r}, the network has none") from error
    if not isinstance(replaced, nn.Linear):
        raise ValueError(
            f"the plan has a {layer.kind} layer {name!r}, the network has a "
            f"{type(replaced).__name__} there"
        )
    return replaced


def _require_no_larger(name: str, layer: ReplacedLayer, replaced: nn.Linear) -> None:
    """Compression never enlarges a layer, so the network bounds what a plan makes us allocate."""
    sizes, limits = (
        (each.out_features, each.in_features, min(each.out_features, each.in_features))
        for each in (layer, replaced)
    )
    if sizes[0] > limits[0] or sizes[1] > limits[1] or (layer.rank or 0) > limits[2]:
        raise ValueError(
            f"the plan has layer {name!r} as [{sizes[0]}, {sizes[1]}] of rank {layer.rank}, which "
            f"is larger than [{limits[0]}, {limits[1]}] in the network"
        )


def _low_rank(name: str, layer: ReplacedLayer, *, has_bias: bool) -> LowRank:
    if layer.rank is None:
        raise ValueError(f"the plan has a low-rank layer {name!r} without a rank")
    return LowRank(layer.in_features, layer.rank, layer.out_features, bias=has_bias)


def _unpack(name: str, layer: ReplacedLayer, parts: Mapping[str, Tensor]) -> Tensor:
    assert layer.kind != "low-rank"
    try:
        return FORMS[layer.kind].restore(parts, (layer.out_features, layer.in_features))
    except ValueError as error:
        raise ValueError(f"the tensors do not fit the plan: layer {name}: {error}") from error


def _some(names: set[str]) -> str:
    """List the first five names."""
    return ", ".join(sorted(names)[:5]) + (" ..." if len(names) > 5 else "")

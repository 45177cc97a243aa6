"""Replaces the sparse Linear layers of a rebuilt network by kernels.

rebuilt network, plan, tensors ─▶ layers ─▶ table (given, or measured now) ─▶ SparseLinear
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn

from variants.catalog.kernels import KernelTable, LayerKernels
from variants.runtime.plan import Plan, packed_tensors
from variants.runtime.sparse.dispatch import (
    LOAD_BATCH_SIZES,
    LOAD_MACS,
    LOAD_S,
    DispatchedLayer,
    available_instruction_set,
    measure_kernels,
)
from variants.runtime.sparse.forms import dense_reason, zero_share
from variants.runtime.sparse.fusion import remove_relu
from variants.runtime.sparse.linear import LayerWeights, SparseLinear

_LOGGER: Final = logging.getLogger(__name__)


def sparse_layers(
    network: nn.Module, plan: Plan, tensors: Mapping[str, Tensor]
) -> dict[str, DispatchedLayer]:
    """Return the packed layers of a rebuilt network by name. `tensors` are those of the file."""
    layers = {}
    for name, layer in plan.packed.items():
        linear = network.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        assert layer.kind != "low-rank"
        layers[name] = DispatchedLayer(
            LayerWeights(
                layer.kind,
                linear.weight.detach(),
                None if linear.bias is None else linear.bias.detach(),
                layer.activation,
                packed_tensors(tensors, name, layer),
            ),
            layer.rows,
        )
    return layers


def use_kernels(
    network: nn.Module, layers: Mapping[str, DispatchedLayer], table: KernelTable | None
) -> KernelTable:
    """Replace the layers in the network by kernels, and fused ReLUs by identities.

    Without a table, or with one of other layers or another instruction set, the kernels are timed
    now, with torch's present number of threads. Returns the table in use.
    """
    if table is not None and (reason := _mismatch(table, layers)):
        _LOGGER.warning("the kernels are measured again, since %s", reason)
        table = None
    if table is None:
        table = measure_kernels(
            layers, seconds=LOAD_S, macs=LOAD_MACS, batch_sizes=LOAD_BATCH_SIZES
        )
    for name, layer in layers.items():
        if layer.weights.activation == "relu":
            remove_relu(network, name)
        network.set_submodule(name, SparseLinear(layer.weights, table.layers[name]).eval())
    return table


def describe_layers(network: nn.Module, table: KernelTable) -> KernelTable:
    """Add the dense layers of a rebuilt network to its table, with the reason why they are dense.

    The layers are in the order of the network.
    """
    layers = {}
    for name, module in network.named_modules():
        if name in table.layers:
            layers[name] = table.layers[name]
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            weight = module.weight.detach()
            is_linear = isinstance(module, nn.Linear)
            layers[name] = LayerKernels(
                kind="dense",
                shape=tuple(weight.shape),
                zeros=zero_share(weight),
                reason=dense_reason(weight) if is_linear else "convolutions have no sparse kernel",
            )
    return table.model_copy(update={"layers": layers})


def _mismatch(table: KernelTable, layers: Mapping[str, DispatchedLayer]) -> str:
    """Return why a table does not fit; "" if it does."""
    if table.instruction_set != (available := available_instruction_set()):
        return (
            f"the table is for the instruction set {table.instruction_set or 'none'!r}, the "
            f"library uses {available or 'none'!r}"
        )
    for name, layer in layers.items():
        listed = table.layers.get(name)
        if listed is None or not listed.choices:
            return f"the table has no layer {name}"
        shape = tuple(layer.weights.weight.shape)
        if (listed.kind, listed.shape) != (layer.weights.kind, shape):
            return f"the table has layer {name} as {listed.kind} {list(listed.shape)}, not {shape}"
        names = {choice.kernel for choice in listed.choices}
        if unknown := names - {*layer.weights.kernel_names}:
            return f"the table has the unknown kernel {', '.join(sorted(unknown))} of layer {name}"
    return ""

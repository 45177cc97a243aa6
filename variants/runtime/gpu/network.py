"""Moves a rebuilt network to the GPU and replaces its sparse Linear layers by products there.

rebuilt network ─▶ table (given, or measured now) ─▶ compressed and checked ─▶ GpuLinear
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import torch
from torch import nn

from variants.catalog.kernels import KernelTable, LayerKernels
from variants.runtime.gpu.device import describe_gpu, require_cuda
from variants.runtime.gpu.dispatch import check, measure_layers
from variants.runtime.gpu.layer import SPARSE, GpuLayer, GpuLinear
from variants.runtime.gpu.products import Product
from variants.runtime.sparse.dispatch import LOAD_BATCH_SIZES, DispatchedLayer
from variants.runtime.sparse.fusion import remove_relu

_LOGGER: Final = logging.getLogger(__name__)

LOAD_S: Final = 2.0
"""As `MEASURE_S`, when a variant is loaded that was not measured on this GPU."""


def use_gpu(
    network: nn.Module, layers: Mapping[str, DispatchedLayer], table: KernelTable | None
) -> KernelTable:
    """Move the network to the GPU, with the layers replaced; return the table in use.

    Without a table, or with one of other layers, another GPU or another version of cuSPARSELt, the
    products are timed now. Every sparse product is compared with the masked dense one when it is
    loaded. Raises `ValueError` if torch cannot use a GPU, or if a product of the table is wrong.
    """
    device = require_cuda()
    if table is not None and (reason := mismatch(table, layers, describe_gpu())):
        _LOGGER.warning("the products are measured again, since %s", reason)
        table = None
    if table is None:
        table = measure_layers(layers, device, seconds=LOAD_S, batch_sizes=LOAD_BATCH_SIZES)
    for name, layer in layers.items():
        own = GpuLayer.of(layer.weights, device)
        by_rows = []
        larger: Product | None = None
        for choice in table.layers[name].choices:
            if choice.algorithm is None:
                product = larger = own.dense(choice.kernel)
            elif wrong := check(own, choice.rows, choice.algorithm):
                raise ValueError(f"layer {name}: {wrong}; measure the variant again")
            else:
                product = own.sparse(choice.rows, choice.algorithm)
                larger = None  # a dense product for fewer rows may be in another arithmetic
            by_rows.append((choice.rows, product))
        larger = larger or own.dense(own.dense_names[-1])
        if layer.weights.activation == "relu":
            remove_relu(network, name)
        out, columns = layer.weights.weight.shape
        bias, activation = layer.weights.bias, layer.weights.activation
        linear = GpuLinear((out, columns), bias, activation, by_rows, larger)
        network.set_submodule(name, linear.eval())
    network.to(device)
    return table


def mismatch(table: KernelTable, layers: Mapping[str, DispatchedLayer], gpu: str) -> str:
    """Return why a table does not fit the layers or the GPU; "" if it does."""
    if table.instruction_set != gpu:
        return f"the table is for {table.instruction_set or 'a CPU'}, and this is {gpu}"
    for name, layer in layers.items():
        shape = tuple(layer.weights.weight.shape)
        listed = table.layers.get(name)
        if listed is None or not listed.choices:
            return f"the table has no layer {name}"
        if (listed.kind, listed.shape) != (layer.weights.kind, shape):
            return f"the table has layer {name} as {listed.kind} {list(listed.shape)}, not {shape}"
        if unknown := _unknown(listed, layer):
            return f"the table has the unknown kernel {unknown} of layer {name}"
    return ""


def _unknown(listed: LayerKernels, layer: DispatchedLayer) -> str:
    own = GpuLayer.of(layer.weights, torch.device("cpu"))
    known = {*own.dense_names, *(() if own.dense_reason else (SPARSE,))}
    for choice in listed.choices:
        if choice.kernel not in known or (choice.kernel == SPARSE) == (choice.algorithm is None):
            return choice.kernel
    return ""

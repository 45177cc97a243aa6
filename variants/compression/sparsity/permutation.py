"""Reorders the channels between two layers by permuting the weights of both.

    writer ─▶ [elementwise, BatchNorm, pooling] ─▶ reader         in an nn.Sequential
    rows in another order                          columns in the same order, equal outputs

Other structures are not reordered: they would need a gather at run time, or they couple channels
(residual additions, attention).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from variants.compression.sparsity.layers import SparsifiableLayer, count_groups, input_channels

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_ELEMENTWISE = (
    nn.Dropout, nn.ELU, nn.GELU, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU, nn.Mish,
    nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Tanh,
)  # fmt: skip
_CHANNELWISE = (
    *_ELEMENTWISE, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.Dropout1d,
    nn.Dropout2d, nn.Flatten, nn.MaxPool2d,
)  # fmt: skip
"""Modules that treat all channels equally and independently."""


@dataclass(frozen=True)
class LayerPair:
    """Names of two layers of which the first produces all inputs of the second."""

    writer: str
    reader: str
    norms: tuple[str, ...]
    """BatchNorms between them, whose parameters are in the order of the writer."""


def find_layer_pairs(
    network: nn.Module, layers: Mapping[str, SparsifiableLayer]
) -> dict[str, LayerPair]:
    """Return by reader the pairs of these layers whose channels can be reordered without cost."""
    names = {module: name for name, module in network.named_modules()}
    pairs = {}
    for modules in _find_sequences(network):
        writer: SparsifiableLayer | None = None
        between: list[nn.Module] = []
        for module in modules:
            is_single = modules.count(module) == 1
            if isinstance(module, SparsifiableLayer):
                is_usable = is_single and names[module] in layers
                if writer is not None and is_usable and _is_compatible(writer, between, module):
                    norms = tuple(names[each] for each in between if isinstance(each, _NORMS))
                    pairs[names[module]] = LayerPair(names[writer], names[module], norms)
                writer, between = module if is_usable else None, []
            elif isinstance(module, _CHANNELWISE) or (isinstance(module, _NORMS) and is_single):
                between.append(module)
            else:
                writer = None
    return pairs


def permute(
    network: nn.Module, masks: Mapping[str, Tensor], pair: LayerPair, order: Tensor
) -> dict[str, Tensor]:
    """Reorder the channels between two layers in place by `order`, INT64 `[channels]`.

    Returns all masks, with those of the writer and the norms reordered; the reader must have none.
    The outputs of the network do not change, except for the rounding of sums.
    """
    reordered = dict(masks)
    for name in (pair.writer, *pair.norms):
        module = network.get_submodule(name)
        for key, tensor in chain(module.named_parameters(), module.named_buffers()):
            if tensor.ndim:
                _reorder(tensor, order)
            if f"{name}.{key}" in masks:
                reordered[f"{name}.{key}"] = masks[f"{name}.{key}"][order]
    _reorder(network.get_parameter(f"{pair.reader}.weight").transpose(0, 1), order)
    return reordered


def _reorder(tensor: Tensor, order: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(tensor[order].clone())


def _is_compatible(
    writer: SparsifiableLayer, between: list[nn.Module], reader: SparsifiableLayer
) -> bool:
    """Return whether output channel i is input column i: no groups, no flattened positions."""
    same_kind = isinstance(writer, nn.Linear) == isinstance(reader, nn.Linear)
    is_flat = any(isinstance(module, nn.Flatten) for module in between)
    return (
        count_groups(writer) == count_groups(reader) == 1
        and len(writer.weight) == input_channels(reader)
        and (same_kind or (is_flat and isinstance(reader, nn.Linear)))
    )


def _find_sequences(network: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield each maximal chain of modules that are called one after the other."""
    inner: set[nn.Module] = set()
    for module in network.modules():  # outer ones come first
        if module not in inner and (sequence := _as_sequential(module)) is not None:
            yield _flatten(sequence, inner)


def _flatten(sequence: nn.Sequential, inner: set[nn.Module]) -> list[nn.Module]:
    modules: list[nn.Module] = []
    for module in sequence:
        if (nested := _as_sequential(module)) is not None:
            inner.add(nested)
            modules += _flatten(nested, inner)
        else:
            modules.append(module)
    return modules


def _as_sequential(module: nn.Module) -> nn.Sequential | None:
    """Return the module if it only calls its children in order, else None."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return module
    return None

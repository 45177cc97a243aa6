"""Reorders the inputs of layers where that costs nothing: whoever writes them is reordered alike.

    producer ─▶ [elementwise, BatchNorm, pooling] ─▶ reader       in an nn.Sequential
    rows in another order                            columns in that order: the same answers

Everything else would need a gather at run time, or couples channels (residual adds, attention),
and is left as it is.
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
"""Modules that treat every channel alike and by itself."""


@dataclass(frozen=True)
class LayerPair:
    """Two layers, by name, of which the first writes all that the second reads."""

    producer: str
    reader: str
    norms: tuple[str, ...]
    """BatchNorms between them: their numbers are in the producer's order too."""


def find_layer_pairs(
    network: nn.Module, layers: Mapping[str, SparsifiableLayer]
) -> dict[str, LayerPair]:
    """Return by reader the joints between these layers, where order can be changed for free."""
    names = {module: name for name, module in network.named_modules()}
    pairs = {}
    for modules in _sequences(network):
        producer: SparsifiableLayer | None = None
        between: list[nn.Module] = []
        for module in modules:
            is_single = modules.count(module) == 1
            if isinstance(module, SparsifiableLayer):
                is_free = is_single and names[module] in layers
                if producer is not None and is_free and _fit(producer, between, module):
                    norms = tuple(names[each] for each in between if isinstance(each, _NORMS))
                    pairs[names[module]] = LayerPair(names[producer], names[module], norms)
                producer, between = module if is_free else None, []
            elif isinstance(module, _CHANNELWISE) or (isinstance(module, _NORMS) and is_single):
                between.append(module)
            else:
                producer = None
    return pairs


def permute(
    network: nn.Module, masks: Mapping[str, Tensor], pair: LayerPair, order: Tensor
) -> dict[str, Tensor]:
    """Put the channels between two layers into an order, INT64 `[channels]`, in place.

    Returns all the masks, those of the producer and the norms reordered alike; the reader must
    have none. The network's answers stay the same, up to the rounding of sums.
    """
    moved = dict(masks)
    for name in (pair.producer, *pair.norms):
        module = network.get_submodule(name)
        for key, tensor in chain(module.named_parameters(), module.named_buffers()):
            if tensor.ndim:
                _reorder(tensor, order)
            if f"{name}.{key}" in masks:
                moved[f"{name}.{key}"] = masks[f"{name}.{key}"][order]
    _reorder(network.get_parameter(f"{pair.reader}.weight").transpose(0, 1), order)
    return moved


def _reorder(tensor: Tensor, order: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(tensor[order].clone())


def _fit(producer: SparsifiableLayer, between: list[nn.Module], reader: SparsifiableLayer) -> bool:
    """Whether channel i that is written is column i that is read: no groups, no places in a row."""
    same_kind = isinstance(producer, nn.Linear) == isinstance(reader, nn.Linear)
    is_flat = any(isinstance(module, nn.Flatten) for module in between)
    return (
        count_groups(producer) == count_groups(reader) == 1
        and len(producer.weight) == input_channels(reader)
        and (same_kind or (is_flat and isinstance(reader, nn.Linear)))
    )


def _sequences(network: nn.Module) -> Iterator[list[nn.Module]]:
    """Every longest chain of modules that are called one after the other."""
    inner: set[nn.Module] = set()
    for module in network.modules():  # outer ones come first
        if module not in inner and (sequence := _plain(module)) is not None:
            yield _flattened(sequence, inner)


def _flattened(sequence: nn.Sequential, inner: set[nn.Module]) -> list[nn.Module]:
    modules: list[nn.Module] = []
    for module in sequence:
        if (nested := _plain(module)) is not None:
            inner.add(nested)
            modules += _flattened(nested, inner)
        else:
            modules.append(module)
    return modules


def _plain(module: nn.Module) -> nn.Sequential | None:
    """The module if it calls its children in order and does nothing else."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return module
    return None

"""The layers whose weights can be masked, each seen as one matrix.

    Linear  [out, in]                       ─▶ [out, in]
    Conv2d  [out, in / groups, high, wide]  ─▶ [out, high * wide * in / groups]

A column is one input of every row. Of a convolution, neighbouring columns are neighbouring input
channels at one place of the kernel: the axis along which N:M groups weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SparsifiableLayer: TypeAlias = nn.Linear | nn.Conv2d

_NUMBERS_AT_ONCE = 2**24
"""How many numbers of a convolution's patches are in memory at a time: 64 MiB in FP32."""


def find_layers(
    network: nn.Module, exclude: Sequence[str] = ()
) -> tuple[dict[str, SparsifiableLayer], list[str]]:
    """Return every Linear and Conv2d by name, and notes on those that had to be left out.

    `exclude` are patterns of names as in a shell (`fnmatch`). Left out is a weight that belongs to
    two modules, or that is computed anew in each pass: a mask would hold the other too, or nothing.

    Raises `ValueError` if a pattern matches no layer.
    """
    layers = {name: m for name, m in network.named_modules() if isinstance(m, SparsifiableLayer)}
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ValueError(
                f"exclude: no layer is called {pattern!r}; there are {', '.join(layers)}"
            )
    parameters = dict(network.named_parameters())
    users = Counter(id(p) for m in network.modules() for p in m.parameters(recurse=False))
    chosen, notes = {}, []
    for name, layer in layers.items():
        if any(fnmatchcase(name, pattern) for pattern in exclude):
            continue
        if f"{name}.weight" not in parameters or users[id(layer.weight)] > 1:
            notes.append(f"layer {name} stays dense: its weight is shared or computed")
        else:
            chosen[name] = layer
    return chosen, notes


def no_layer_error(kind: str, notes: Iterable[str]) -> ValueError:
    """Return what a technique of this kind raises if every layer had to be left out."""
    return ValueError(f"{kind} found no layer to work on: {'; '.join(notes) or 'none'}")


def count_groups(layer: SparsifiableLayer) -> int:
    """Return into how many groups the rows fall, each of which reads inputs of its own."""
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def input_channels(layer: SparsifiableLayer) -> int:
    """Return how many channels each row reads: a Linear's inputs, or a convolution's per group."""
    return int(layer.weight.shape[1])


def to_matrix(weight: Tensor) -> Tensor:
    """Turn a weight, or what has its shape, into `[out, columns]`."""
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).flatten(1)


def to_weight(matrix: Tensor, layer: SparsifiableLayer) -> Tensor:
    """Turn `[out, columns]` into the shape of the layer's weight, contiguous."""
    if isinstance(layer, nn.Linear):
        return matrix.contiguous()
    out, channels, high, wide = layer.weight.shape
    return matrix.reshape(out, high, wide, channels).permute(0, 3, 1, 2).contiguous()


def unfold_inputs(layer: SparsifiableLayer, inputs: Tensor) -> Iterator[Tensor]:
    """Yield what the matrix is multiplied with, `[groups, n, columns]`, in parts of bounded size.

    `inputs` is what the layer is given: `[..., in]`, or `[n, channels, high, wide]`.
    """
    if isinstance(layer, nn.Linear):
        yield inputs.reshape(1, -1, inputs.shape[-1])
        return
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    # What torch itself pads with, for `padding="same"` and every padding mode.
    inputs = F.pad(inputs, layer._reversed_padding_repeated_twice, mode)
    kernel = (int(layer.weight.shape[2]), int(layer.weight.shape[3]))
    per_sample = inputs[0].numel() * kernel[0] * kernel[1]
    for part in torch.split(inputs, max(1, _NUMBERS_AT_ONCE // per_sample)):
        # [n, channels * high * wide, places]
        patches = F.unfold(part, kernel, layer.dilation, stride=layer.stride)
        samples, _, places = patches.shape
        apart = patches.reshape(samples, layer.groups, -1, kernel[0] * kernel[1], places)
        yield apart.permute(1, 0, 4, 3, 2).flatten(3).flatten(1, 2)


def allowed_weights(
    layers: Mapping[str, SparsifiableLayer], masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return by layer which weights are not masked yet, BOOL `[out, columns]`.

    `masks` are by parameter name, as in a workpiece.
    """
    allowed = {}
    for name, layer in layers.items():
        mask = masks.get(f"{name}.weight")
        allowed[name] = to_matrix(
            torch.ones_like(layer.weight, dtype=torch.bool) if mask is None else mask
        )
    return allowed


def describe_unobserved(
    layers: Mapping[str, SparsifiableLayer], kept: Mapping[str, Tensor]
) -> list[str]:
    """Return notes on the layers that a criterion could not score."""
    return [
        f"layer {name} stays dense: what it reads cannot be observed"
        for name in layers
        if name not in kept
    ]


def mask_layers(
    layers: Mapping[str, SparsifiableLayer], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Set the weights of these layers to zero where `kept`, BOOL `[out, columns]`, is False.

    Returns the masks by parameter name, BOOL of the parameter's shape.
    """
    masks = {}
    for name, matrix in kept.items():
        mask = to_weight(matrix, layers[name])
        with torch.no_grad():
            layers[name].weight.masked_fill_(~mask, 0.0)
        masks[f"{name}.weight"] = mask
    return masks

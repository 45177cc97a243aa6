"""The layers whose weights can be masked, with their weights as matrices.

    Linear  [out, in]                       ─▶ [out, in]
    Conv2d  [out, in / groups, height, width]  ─▶ [out, height * width * in / groups]

A column belongs to one input of every row. Neighbouring columns of a convolution are neighbouring
input channels at one kernel position, which is the axis along which N:M sparsity groups weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.runtime.sparse.forms import sparse_kind

SparsifiableLayer: TypeAlias = nn.Linear | nn.Conv2d

MAX_UNFOLDED_VALUES = 2**24
"""Largest number of values of unfolded convolution patches in memory: 64 MiB in FP32."""


def find_layers(
    network: nn.Module, exclude: Sequence[str] = ()
) -> tuple[dict[str, SparsifiableLayer], list[str]]:
    """Return every Linear and Conv2d by name, and notes on those that cannot be masked.

    `exclude` holds shell patterns (`fnmatch`) of the names to skip. A weight that belongs to two
    modules cannot be masked, since the mask would affect both; neither can a weight that is
    recomputed in each pass, since the mask would be lost.

    Raises `ValueError` if a pattern matches no layer.
    """
    layers = {name: m for name, m in network.named_modules() if isinstance(m, SparsifiableLayer)}
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ValueError(
                f"exclude: {pattern!r} matches no layer; the layers are {', '.join(layers)}"
            )
    parameters = dict(network.named_parameters())
    users = Counter(id(p) for m in network.modules() for p in m.parameters(recurse=False))
    chosen, notes = {}, []
    for name, layer in layers.items():
        if any(fnmatchcase(name, pattern) for pattern in exclude):
            continue
        if f"{name}.weight" not in parameters or users[id(layer.weight)] > 1:
            notes.append(
                f"layer {name} stays dense: its weight is shared with another layer or computed"
            )
        else:
            chosen[name] = layer
    return chosen, notes


def no_layer_error(kind: str, notes: Iterable[str]) -> ValueError:
    """Return the error for a technique of this kind if it can be applied to no layer."""
    reasons = "; ".join(notes) or "there is no Linear or Conv2d that is not excluded"
    return ValueError(f"{kind} cannot be applied to any layer: {reasons}")


def count_groups(layer: SparsifiableLayer) -> int:
    """Return the number of groups of rows; each group has its own inputs."""
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def input_channels(layer: SparsifiableLayer) -> int:
    """Return the number of input channels that each row reads; a Conv2d counts those of a group."""
    return int(layer.weight.shape[1])


def to_matrix(weight: Tensor) -> Tensor:
    """Reshape a weight, or a tensor of its shape, to `[out, columns]`."""
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).flatten(1)


def to_weight(matrix: Tensor, layer: SparsifiableLayer) -> Tensor:
    """Reshape `[out, columns]` to the shape of the layer's weight, contiguous."""
    if isinstance(layer, nn.Linear):
        return matrix.contiguous()
    out, channels, high, wide = layer.weight.shape
    return matrix.reshape(out, high, wide, channels).permute(0, 3, 1, 2).contiguous()


def unfold_inputs(layer: SparsifiableLayer, inputs: Tensor) -> Iterator[Tensor]:
    """Yield the inputs that the weight matrix is multiplied with, `[groups, n, columns]`, in parts.

    `inputs` are those of the layer: `[..., in]`, or `[n, channels, height, width]`. A part of a
    convolution has at most `MAX_UNFOLDED_VALUES` values, or a single sample.
    """
    if isinstance(layer, nn.Linear):
        yield inputs.reshape(1, -1, inputs.shape[-1])
        return
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    # torch itself pads with these sizes, for `padding="same"` and for every padding mode.
    inputs = F.pad(inputs, layer._reversed_padding_repeated_twice, mode)
    kernel = (int(layer.weight.shape[2]), int(layer.weight.shape[3]))
    per_sample = inputs[0].numel() * kernel[0] * kernel[1]
    for part in torch.split(inputs, max(1, MAX_UNFOLDED_VALUES // per_sample)):
        # [n, channels * height * width, positions]
        patches = F.unfold(part, kernel, layer.dilation, stride=layer.stride)
        samples, _, places = patches.shape
        patches_by_group = patches.reshape(samples, layer.groups, -1, kernel[0] * kernel[1], places)
        yield patches_by_group.permute(1, 0, 4, 3, 2).flatten(3).flatten(1, 2)


def unmasked_weights(
    layers: Mapping[str, SparsifiableLayer], masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return by layer which weights are not masked yet, BOOL `[out, columns]`.

    `masks` are by parameter name, as in `CompressionState`.
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
    """Return notes on the layers that a criterion cannot score."""
    return [
        f"layer {name} stays dense: its inputs cannot be observed"
        for name in layers
        if name not in kept
    ]


def packable_layers(
    layers: Mapping[str, SparsifiableLayer], kept: Mapping[str, Tensor]
) -> frozenset[str]:
    """Return the names of the Linear layers that can be stored without their zeros.

    `kept` is by layer, BOOL `[out, columns]`. Convolutions have no sparse kernel, and a subclass
    with a forward of its own may compute anything.
    """
    return frozenset(
        name
        for name, matrix in kept.items()
        if computes_linear(layers[name]) and sparse_kind(matrix) is not None
    )


def computes_linear(layer: nn.Module) -> bool:
    """Return whether a module computes what `nn.Linear` computes."""
    return (
        isinstance(layer, nn.Linear)
        and type(layer).forward is nn.Linear.forward
        and "forward" not in layer.__dict__
    )


def mask_layers(
    layers: Mapping[str, SparsifiableLayer], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Set weights to zero where `kept`, BOOL `[out, columns]` by layer, is False.

    Returns the masks by parameter name, BOOL of the parameter's shape.
    """
    masks = {}
    for name, matrix in kept.items():
        mask = to_weight(matrix, layers[name])
        with torch.no_grad():
            layers[name].weight.masked_fill_(~mask, 0.0)
        masks[f"{name}.weight"] = mask
    return masks

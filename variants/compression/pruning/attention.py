"""Attention heads as prunable units: which modules have them, and which weights a head owns.

A module is an attention if `query`, `key`, `value` and `output` are each an `nn.Linear` and
`head_dim` is an int. Head i owns `head_dim` rows of query, key and value, from i * head_dim, and
the same columns of output. The module must infer the number of heads from the shapes of its weights
(`self.query.weight.shape[0] // self.head_dim`), since pruning removes heads.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from torch import nn

from variants.compression.pruning.group import Group, GroupTensor

_PROJECTIONS: Final = ("query", "key", "value")


def find_attentions(network: nn.Module) -> dict[str, nn.Module]:
    """Return every attention of the network by name."""
    return {name: module for name, module in network.named_modules() if _is_attention(module)}


def group_heads(name: str, attention: nn.Module) -> Group:
    """Return the heads of one attention as a group of units.

    Raises `ValueError` if its Linears differ in width or the width is not a multiple of `head_dim`.
    """
    head_dim: int = attention.head_dim  # type: ignore[assignment]  # checked by _is_attention
    writers = {part: attention.get_submodule(part) for part in _PROJECTIONS}
    widths = {part: len(writer.get_parameter("weight")) for part, writer in writers.items()}
    width = widths["output"] = attention.get_parameter("output.weight").shape[1]
    if set(widths.values()) != {width} or width % head_dim:
        sizes = ", ".join(f"{part} {size}" for part, size in widths.items())
        raise ValueError(
            f"attention {name!r}: query, key, value and the inputs of output must have the same "
            f"width, a multiple of head_dim = {head_dim}; got {sizes}"
        )
    units = np.arange(width) // head_dim
    tensors = [
        GroupTensor(f"{name}.{part}.{key}".removeprefix("."), 0, units, "writes")
        for part, writer in writers.items()
        for key, _ in writer.named_parameters()
    ]
    tensors.append(GroupTensor(f"{name}.output.weight".removeprefix("."), 1, units, "reads"))
    return Group(
        name=name,
        kind="heads",
        size=width // head_dim,
        layers=(name,),
        tensors=tuple(tensors),
    )


def _is_attention(module: nn.Module) -> bool:
    parts = dict(module.named_children())
    return isinstance(getattr(module, "head_dim", None), int) and all(
        isinstance(parts.get(part), nn.Linear) for part in (*_PROJECTIONS, "output")
    )

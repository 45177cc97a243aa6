"""Follows the channels of an activation, through a traced program, to the Linears that read them.

    value ─▶ [n, tokens, channels] ─▶ [n, heads, tokens, head_dim] ─▶ attention @ . ─▶ ... ─▶ output

Every dimension of a tensor is described by what its index says of the channel: heads, for one, goes
in strides of head_dim channels. What has no such description is refused, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

import torch
from torch import fx

_ATEN: Final = torch.ops.aten
_KEEP: Final = (
    _ATEN.alias.default, _ATEN.clone.default, _ATEN.contiguous.default, _ATEN.detach.default,
    _ATEN.dropout.default, _ATEN.relu.default,
)  # fmt: skip
"""Operators f with f(x / s) = f(x) / s for every positive s, as dropout for a given mask."""
_RESHAPE: Final = (
    _ATEN.flatten.using_ints, _ATEN.reshape.default, _ATEN.squeeze.default, _ATEN.squeeze.dim,
    _ATEN.squeeze.dims, _ATEN.unflatten.int, _ATEN.unsqueeze.default, _ATEN.view.default,
)  # fmt: skip
"""Operators that keep the elements and their order, and cut them into other dimensions."""
_MIX: Final = {
    _ATEN.bmm.default: 1, _ATEN.matmul.default: 1, _ATEN.scaled_dot_product_attention.default: 2,
}  # fmt: skip
"""Operators that add up the rows of one argument, by its place, with weights from the others."""


class NotExact(Exception):
    """Dividing these channels would change what the network computes."""


class Part(NamedTuple):
    """A digit of a dimension's index: it has `size` values, a step is `stride` channels on.

    A stride of 0 says nothing of the channel: samples, tokens.
    """

    size: int
    stride: int


Layout: TypeAlias = tuple[tuple[Part, ...], ...]
"""The digits of each dimension's index, the slowest first; none for a dimension of one element."""


def find_readers(node: fx.Node) -> list[fx.Node]:
    """Return the Linears that read what a node computes, `[..., channels]`, in that order.

    Raises `NotExact` if anything else reads it, or reads it otherwise than by channel.
    """
    *others, channels = node.meta["val"].shape
    layout = (*((Part(size, 0),) for size in others), (Part(channels, 1),))
    found = _follow(node, layout, channels)
    if not found:
        raise NotExact("no Linear reads it")
    return found


def _follow(node: fx.Node, layout: Layout, channels: int) -> list[fx.Node]:
    found = []
    for user in node.users:
        places = [
            place
            for place, argument in enumerate((*user.args, *user.kwargs.values()))
            if argument is node
        ]
        if user.target is _ATEN.linear.default and places == [0]:
            if _joined(layout[-1]) != _joined([Part(channels, 1)]):
                raise NotExact("a Linear reads its channels in another order, or not all of them")
            found.append(user)
        else:
            found += _follow(user, _layout(user, places, layout), channels)
    return found


def _layout(user: fx.Node, places: Sequence[int], given: Layout) -> Layout:
    """Return the layout of what `user` computes from the given, which are its args at `places`."""
    if user.target in _KEEP:
        return given
    if user.target in _RESHAPE:
        return _cut([part for parts in given for part in parts], _sizes(user))
    if user.target is _ATEN.transpose.int:
        order = list(range(len(given)))
        one, other = (int(axis) for axis in user.args[1:3])  # type: ignore[arg-type]
        order[one], order[other] = order[other], order[one]
        return tuple(given[axis] for axis in order)
    if user.target is _ATEN.permute.default:
        return tuple(given[axis] for axis in user.args[1])  # type: ignore[union-attr,index]
    if user.target is _ATEN.expand.default:
        return _spread(given, _sizes(user))
    if user.target in _MIX and places == [_MIX[user.target]]:
        return _mixed(given, _sizes(user))
    what = "the output" if user.op == "output" else str(user.target).removeprefix("aten.")
    raise NotExact(f"{what} reads it too, not only Linears")


def _sizes(node: fx.Node) -> tuple[int, ...]:
    sizes = tuple(node.meta["val"].shape)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise NotExact("its shape depends on values")
    return sizes


def _joined(parts: Iterable[Part]) -> list[Part]:
    """Return the same index in the fewest digits."""
    joined: list[Part] = []
    for part in parts:
        if joined and joined[-1].stride == part.size * part.stride:
            part = Part(joined.pop().size * part.size, part.stride)
        if part.size > 1:
            joined.append(part)
    return joined


def _cut(parts: Iterable[Part], sizes: Sequence[int]) -> Layout:
    """Return the layout of the same elements, in the same order, in dimensions of other sizes."""
    left = _joined(parts)[::-1]
    layout = []
    for size in sizes:
        digits = []
        while size > 1:
            part = left.pop()
            taken = math.gcd(size, part.size)
            rest = part.size // taken
            if rest > 1 and taken < size:
                raise NotExact("its channels are cut where no dimension ends")
            if rest > 1:
                left.append(Part(rest, part.stride))
            digits.append(Part(taken, part.stride * rest))
            size //= taken
        layout.append(tuple(digits))
    return tuple(layout)


def _spread(given: Layout, sizes: Sequence[int]) -> Layout:
    """Return the layout after broadcasting to `sizes`, new dimensions in front."""
    padded = ((),) * (len(sizes) - len(given)) + given
    layout = []
    for parts, size in zip(padded, sizes, strict=True):
        if not _has_channels(parts):
            parts = (Part(size, 0),)
        elif math.prod(part.size for part in parts) != size:
            raise NotExact("its channels are repeated")  # as heads are by grouped queries
        layout.append(parts)
    return tuple(layout)


def _mixed(given: Layout, sizes: Sequence[int]) -> Layout:
    """Return the layout of `weights @ given`, `[..., rows, columns]`: rows are added up."""
    if len(given) < 2 or _has_channels(given[-2]):
        raise NotExact("a product adds its channels up")
    if len(sizes) < len(given):
        raise NotExact("a product with a vector takes a dimension away")
    return _spread((*given[:-2], (), given[-1]), sizes)


def _has_channels(parts: Iterable[Part]) -> bool:
    return any(part.stride for part in parts)

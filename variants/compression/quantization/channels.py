"""Finds the Linear layers that read an activation's channels, in a program traced by torch.

    value ─▶ [n, tokens, channels] ─▶ [n, heads, tokens, head_dim] ─▶ attention @ . ─▶ ... ─▶ output

A `Layout` describes how the index of each dimension of a tensor depends on the channel: the index
of heads, for example, advances by head_dim channels. A tensor without such a description is
refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

import torch
from torch import fx

_ATEN: Final = torch.ops.aten
_HOMOGENEOUS: Final = (
    _ATEN.alias.default, _ATEN.clone.default, _ATEN.contiguous.default, _ATEN.detach.default,
    _ATEN.dropout.default, _ATEN.relu.default,
)  # fmt: skip
"""Operators f with f(x / s) = f(x) / s for every positive s; dropout is one for a given mask."""
_RESHAPE: Final = (
    _ATEN.flatten.using_ints, _ATEN.reshape.default, _ATEN.squeeze.default, _ATEN.squeeze.dim,
    _ATEN.squeeze.dims, _ATEN.unflatten.int, _ATEN.unsqueeze.default, _ATEN.view.default,
)  # fmt: skip
"""Operators that keep the elements and their order, and change the dimensions."""
_WEIGHTED_SUMS: Final = {
    _ATEN.bmm.default: 1, _ATEN.matmul.default: 1, _ATEN.scaled_dot_product_attention.default: 2,
}  # fmt: skip
"""Operators that compute weighted sums of an argument's rows; the value is its position.

The weights come from the other arguments."""


class NotExact(Exception):
    """Raised if dividing an activation's channels would change the network's output."""


class IndexDigit(NamedTuple):
    """One digit of a dimension's index, in mixed radix.

    The digit has `size` values, and adding 1 to it advances by `stride` channels. A stride of 0
    means that the digit does not depend on the channel, as for samples and tokens.
    """

    size: int
    stride: int


Layout: TypeAlias = tuple[tuple[IndexDigit, ...], ...]
"""The digits of each dimension's index, most significant first; none for a dimension of size 1."""


def find_readers(node: fx.Node) -> list[fx.Node]:
    """Return the Linear layers that read a node's output, `[..., channels]`, by its channels.

    Raises `NotExact` if another operator reads it, or if a Linear reads the channels in another
    order or reads other dimensions.
    """
    *others, channels = node.meta["val"].shape
    layout = (*((IndexDigit(size, 0),) for size in others), (IndexDigit(channels, 1),))
    readers = _follow(node, layout, channels)
    if not readers:
        raise NotExact("no Linear reads it")
    return readers


def _follow(node: fx.Node, layout: Layout, channels: int) -> list[fx.Node]:
    readers = []
    for user in node.users:
        positions = [
            position
            for position, argument in enumerate((*user.args, *user.kwargs.values()))
            if argument is node
        ]
        if user.target is _ATEN.linear.default and positions == [0]:
            if _merge_digits(layout[-1]) != _merge_digits([IndexDigit(channels, 1)]):
                raise NotExact("a Linear reads its channels in another order, or not all of them")
            readers.append(user)
        else:
            readers += _follow(user, _user_layout(user, positions, layout), channels)
    return readers


def _user_layout(user: fx.Node, positions: Sequence[int], layout: Layout) -> Layout:
    """Return the layout of the output of `user`.

    `layout` is that of its arguments at `positions`. Raises `NotExact` if the output has none.
    """
    if user.target in _HOMOGENEOUS:
        return layout
    if user.target in _RESHAPE:
        return _reshape_layout([digit for digits in layout for digit in digits], _sizes(user))
    if user.target is _ATEN.transpose.int:
        order = list(range(len(layout)))
        first, second = (int(axis) for axis in user.args[1:3])  # type: ignore[arg-type]
        order[first], order[second] = order[second], order[first]
        return tuple(layout[axis] for axis in order)
    if user.target is _ATEN.permute.default:
        return tuple(layout[axis] for axis in user.args[1])  # type: ignore[union-attr,index]
    if user.target is _ATEN.expand.default:
        return _broadcast_layout(layout, _sizes(user))
    if user.target in _WEIGHTED_SUMS and positions == [_WEIGHTED_SUMS[user.target]]:
        return _product_layout(layout, _sizes(user))
    reader = "the output" if user.op == "output" else str(user.target).removeprefix("aten.")
    raise NotExact(f"it is read by {reader}, not only by Linear layers")


def _sizes(node: fx.Node) -> tuple[int, ...]:
    sizes = tuple(node.meta["val"].shape)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise NotExact("its shape depends on the values of the input")
    return sizes


def _merge_digits(digits: Iterable[IndexDigit]) -> list[IndexDigit]:
    """Return the same index with as few digits as possible."""
    merged: list[IndexDigit] = []
    for digit in digits:
        if merged and merged[-1].stride == digit.size * digit.stride:
            digit = IndexDigit(merged.pop().size * digit.size, digit.stride)
        if digit.size > 1:
            merged.append(digit)
    return merged


def _reshape_layout(digits: Iterable[IndexDigit], sizes: Sequence[int]) -> Layout:
    """Return the layout after a reshape to `sizes`, which keeps the elements and their order."""
    remaining = _merge_digits(digits)[::-1]
    layout = []
    for size in sizes:
        dimension = []
        while size > 1:
            digit = remaining.pop()
            taken = math.gcd(size, digit.size)
            rest = digit.size // taken
            if rest > 1 and taken < size:
                raise NotExact("a reshape mixes its channels with another dimension")
            if rest > 1:
                remaining.append(IndexDigit(rest, digit.stride))
            dimension.append(IndexDigit(taken, digit.stride * rest))
            size //= taken
        layout.append(tuple(dimension))
    return tuple(layout)


def _broadcast_layout(layout: Layout, sizes: Sequence[int]) -> Layout:
    """Return the layout after broadcasting to `sizes`; new dimensions come first."""
    padded = ((),) * (len(sizes) - len(layout)) + layout
    result = []
    for digits, size in zip(padded, sizes, strict=True):
        if not _has_channels(digits):
            digits = (IndexDigit(size, 0),)
        elif math.prod(digit.size for digit in digits) != size:
            # For example, heads in grouped-query attention.
            raise NotExact("its channels are repeated")
        result.append(digits)
    return tuple(result)


def _product_layout(layout: Layout, sizes: Sequence[int]) -> Layout:
    """Return the layout of a product `weights @ values`, whose shape is `[..., rows, columns]`.

    The product sums over the rows of `values`; `layout` is that of `values`.
    """
    if len(layout) < 2 or _has_channels(layout[-2]):
        raise NotExact("a product sums over its channels")
    if len(sizes) < len(layout):
        raise NotExact("a product with a vector removes a dimension")
    return _broadcast_layout((*layout[:-2], (), layout[-1]), sizes)


def _has_channels(digits: Iterable[IndexDigit]) -> bool:
    return any(digit.stride for digit in digits)

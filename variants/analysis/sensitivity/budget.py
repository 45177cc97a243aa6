"""How much to take from which layer: a share for each, by what its sensitivity says it costs.

    Sensitivity, target share or largest drop ─▶ allocate ─▶ {layer: share of its weights}

A pure function of measured curves. That the losses of layers add up is assumed, not measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from variants.analysis.sensitivity.layers import Curve, Sensitivity


@dataclass(frozen=True)
class Allocation:
    """Shares of each layer's weights to remove, 0 to 1, and what they come to."""

    shares: dict[str, float]
    removed: float
    """Of the weights of all these layers together."""
    expected_drop: float
    """In accuracy, before recovery: the sum over the layers, each masked alone."""


@dataclass(frozen=True, order=True)
class _Move:
    """Raising one layer from where it is to a measured sparsity; the least is the best."""

    price: float
    """Accuracy lost for each weight removed."""
    sparsity: float
    layer: int
    loss: float
    weights: float


def allocate(
    sensitivity: Sensitivity,
    *,
    target_share: float | None = None,
    max_drop: float | None = None,
) -> Allocation:
    """Share out the removal of `target_share` of all weights, at most at a loss of `max_drop`.

    Greedy: every layer begins at 0. Of all ways to raise one layer to a higher measured sparsity,
    the one that loses least accuracy per weight is taken, and of equals the one that ends at the
    lowest sparsity, so that free removal is spread. It goes on until the target is met or the next
    move would lose more than `max_drop` in all; that last move is made in part, its loss taken as
    growing in proportion, so that target and drop are used up exactly. A layer's loss at a
    sparsity is the largest measured up to it, at least 0: a gain is noise, and not spent elsewhere.

    Both limits are shares, 0 to 1. With `max_drop` alone, as much is removed as it allows.
    Raises `ValueError` if neither is given, or the target cannot be met: it says what can.
    """
    if target_share is None and max_drop is None:
        raise ValueError("allocate needs a target_share, a max_drop, or both")
    for name, value in (("target_share", target_share), ("max_drop", max_drop)):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name} must be a share from 0 to 1, got {value}")

    curves = sensitivity.curves
    total = sum(curve.weights for curve in curves)
    wanted = total if target_share is None else target_share * total
    allowed = 1.0 if max_drop is None else max_drop
    losses = [_losses(curve) for curve in curves]
    at = [0] * len(curves)  # the measured point where each layer is
    shares = [0.0] * len(curves)
    removed = lost = 0.0
    while removed < wanted and (move := min(_moves(curves, losses, at), default=None)):
        part = min(
            1.0,
            (wanted - removed) / move.weights,
            (allowed - lost) / move.loss if move.loss else 1.0,
        )
        shares[move.layer] += part * (move.sparsity - shares[move.layer])
        removed += part * move.weights
        lost += part * move.loss
        if part < 1:
            break
        at[move.layer] = _index(curves[move.layer], move.sparsity)
    if target_share is not None and removed < wanted - 0.5:  # half a weight: rounding
        within = "the sparsities measured" if max_drop is None else f"a drop of {max_drop:.2%}"
        raise ValueError(
            f"{removed / total:.1%} of the weights can be removed within {within}, "
            f"not {target_share:.1%}"
        )
    names = [curve.layer for curve in curves]
    return Allocation(dict(zip(names, shares, strict=True)), removed / total, lost)


def _moves(curves: tuple[Curve, ...], losses: list[list[float]], at: list[int]) -> Iterator[_Move]:
    for layer, (curve, loss) in enumerate(zip(curves, losses, strict=True)):
        here = at[layer]
        for there in range(here + 1, len(curve.points)):
            sparsity = curve.points[there].sparsity
            weights = curve.weights * (sparsity - curve.points[here].sparsity)
            more = loss[there] - loss[here]
            yield _Move(more / weights, sparsity, layer, more, weights)


def _losses(curve: Curve) -> list[float]:
    # At its first point, 0, a layer has lost nothing: so no running maximum is below that.
    return list(accumulate((-point.difference.value for point in curve.points), max))


def _index(curve: Curve, sparsity: float) -> int:
    return next(i for i, point in enumerate(curve.points) if point.sparsity == sparsity)

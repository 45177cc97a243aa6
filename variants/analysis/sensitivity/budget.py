"""Allocation of sparsity to layers by their measured sensitivity.

    Sensitivity, target share or largest drop ─▶ allocate ─▶ {layer: share of its weights}

A pure function of the measured curves. It assumes that the losses of the layers add up; this is
not measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from variants.analysis.sensitivity.layers import LayerSensitivity, Sensitivity


@dataclass(frozen=True)
class Allocation:
    """The share of each layer's weights to remove, 0 to 1, and the totals."""

    shares: dict[str, float]
    removed: float
    """Share of the weights of all these layers together."""
    expected_drop: float
    """Expected loss of accuracy before recovery: the sum over the layers, each masked alone."""


@dataclass(frozen=True, order=True)
class _Move:
    """A step of one layer to a higher measured sparsity. Moves sort from best to worst."""

    price: float
    """Loss of accuracy per weight removed."""
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
    """Allocate the removal of `target_share` of all weights, with a loss of at most `max_drop`.

    The algorithm is greedy. Every layer starts at 0. A move raises one layer to a higher measured
    sparsity. Each round takes the move that loses the least accuracy per weight; of equal moves it
    takes the one that ends at the lowest sparsity, so that removal without loss is spread. It stops
    when the target is met or the next move would exceed `max_drop`. That last move is made in part,
    its loss taken as proportional, so that target and drop are used up exactly. The loss of a layer
    at a sparsity is the largest measured up to that sparsity, at least 0: a gain is noise and does
    not offset other losses.

    Both limits are shares, 0 to 1. With `max_drop` alone, as much is removed as it allows.
    Raises `ValueError` if neither is set, or if the target cannot be met; the message states how
    much can be removed.
    """
    if target_share is None and max_drop is None:
        raise ValueError("allocate needs target_share, max_drop, or both")
    for name, value in (("target_share", target_share), ("max_drop", max_drop)):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name} must be a share from 0 to 1, got {value}")

    curves = sensitivity.curves
    total = sum(curve.weights for curve in curves)
    target = total if target_share is None else target_share * total
    budget = 1.0 if max_drop is None else max_drop
    losses = [_cumulative_losses(curve) for curve in curves]
    at = [0] * len(curves)  # index of each layer's present point
    shares = [0.0] * len(curves)
    removed = lost = 0.0
    while removed < target and (move := min(_moves(curves, losses, at), default=None)):
        part = min(
            1.0,
            (target - removed) / move.weights,
            (budget - lost) / move.loss if move.loss else 1.0,
        )
        shares[move.layer] += part * (move.sparsity - shares[move.layer])
        removed += part * move.weights
        lost += part * move.loss
        if part < 1:
            break
        at[move.layer] = _index(curves[move.layer], move.sparsity)
    if target_share is not None and removed < target - 0.5:  # half a weight for rounding
        within = "the sparsities measured" if max_drop is None else f"a drop of {max_drop:.2%}"
        raise ValueError(
            f"{removed / total:.1%} of the weights can be removed within {within}, "
            f"not {target_share:.1%}"
        )
    names = [curve.layer for curve in curves]
    return Allocation(dict(zip(names, shares, strict=True)), removed / total, lost)


def _moves(
    curves: tuple[LayerSensitivity, ...], losses: list[list[float]], at: list[int]
) -> Iterator[_Move]:
    for layer, (curve, loss) in enumerate(zip(curves, losses, strict=True)):
        here = at[layer]
        for there in range(here + 1, len(curve.points)):
            sparsity = curve.points[there].sparsity
            weights = curve.weights * (sparsity - curve.points[here].sparsity)
            more = loss[there] - loss[here]
            yield _Move(more / weights, sparsity, layer, more, weights)


def _cumulative_losses(curve: LayerSensitivity) -> list[float]:
    # The first point, sparsity 0, has no loss, so the running maximum starts at 0.
    return list(accumulate((-point.difference.value for point in curve.points), max))


def _index(curve: LayerSensitivity, sparsity: float) -> int:
    return next(i for i, point in enumerate(curve.points) if point.sparsity == sparsity)

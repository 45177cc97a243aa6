"""Isotonic regression: the closest values that do not decrease."""

from __future__ import annotations

from collections.abc import Sequence


def isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return the non-decreasing values with the least weighted squared difference to `values`.

    Pool-adjacent-violators algorithm (Ayer et al., "An empirical distribution function for
    sampling with incomplete information", 1955). The weights are above 0.
    """
    ascending = sorted(values)
    if ascending == values:
        return ascending  # the usual case
    blocks: list[tuple[float, float, int]] = []  # mean, weight, number of values
    for value, weight in zip(values, weights, strict=True):
        count = 1
        while blocks and blocks[-1][0] > value:
            mean, before, pooled = blocks.pop()
            value = (mean * before + value * weight) / (before + weight)
            weight, count = before + weight, pooled + count
        blocks.append((value, weight, count))
    return [mean for mean, _, count in blocks for _ in range(count)]

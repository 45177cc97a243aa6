"""Accuracy tiers: the variants whose measured accuracies count as equal.

    paired differences from dense ─▶ tiers, best first ─▶ the accuracy that routing compares

A difference that the measurement cannot tell from 0 is noise and decides nothing. Equality in pairs
is not transitive, so each tier has one reference, with which its other members are compared. That
of the first comparison is dense, because all variants are measured against it.
"""

from __future__ import annotations

from collections.abc import Mapping

from variants.catalog.catalog import Interval
from variants.catalog.comparison import BETTER, WORSE, accuracy_verdict


def tier_accuracies(
    differences: Mapping[str, Interval], dense_accuracy: float, margin: float = 0.0
) -> dict[str, float]:
    """Return for each variant the accuracy of its tier, which is that of the tier's reference.

    `differences` are accuracies minus that of dense, with their paired 95 % intervals. A variant is
    in the tier of dense unless its interval shows a difference of more than `margin`. The others
    are better or worse than dense. Each of them, the most accurate first, is in the tier of the
    last reference if their estimates differ by at most `margin`, else the reference of a new tier.
    """
    tiers: dict[str, float] = {}
    for verdict in (BETTER, WORSE):
        names = [n for n, each in differences.items() if accuracy_verdict(each, margin) == verdict]
        names.sort(key=lambda name: -differences[name].value)
        reference: float | None = None
        for name in names:
            value = differences[name].value
            if reference is None or reference - value > margin:
                reference = value
            tiers[name] = dense_accuracy + reference
    return {name: tiers.get(name, dense_accuracy) for name in differences}

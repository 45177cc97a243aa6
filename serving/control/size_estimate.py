"""Estimates size and memory of the variant of a recipe from the report cards of the catalog."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from serving.control.recipes import with_defaults
from variants.catalog.catalog import Catalog, ReportCard
from variants.catalog.recipe import DENSE, Recipe, Step
from variants.catalog.record import Record


class SizeEstimate(Record):
    """Size and memory of a variant; None if nothing similar was measured."""

    served_bytes: int | None
    """Size of the files that a host loads."""
    resident_bytes: int | None
    """Memory of one host."""
    basis: str
    """What the numbers are taken from."""


_SIZES: Final[Mapping[str, float]] = {
    "int8": 0.25,
    "fp16": 0.5,
    "bf16": 0.5,
    "weight-sharing": 0.25,
}
"""Size of the weights after a technique, as a share of their size before."""


def estimate_size(
    recipe: Recipe, catalog: Catalog, hardware_key: str | None = None
) -> SizeEstimate:
    """Estimate size and memory of the variant of a valid recipe from the catalog's report cards.

    The card of a variant with the same recipe counts, else one with the same techniques, else that
    of dense with the usual effect of the techniques. `hardware_key` selects cards; None means any.
    """
    cards: dict[str, ReportCard] = {}
    for name, variant in catalog.variants.items():
        fitting = [c for c in variant.report_cards if hardware_key in (None, c.hardware.key)]
        if fitting:
            cards[name] = fitting[-1]
    kinds = [step.technique for step in recipe]
    same = [name for name in cards if catalog.variants[name].recipe == recipe]
    similar = [
        name
        for name in cards
        if [step.technique for step in catalog.variants[name].recipe] == kinds
    ]
    for names, what in ((same, "the same recipe"), (similar, "the same techniques")):
        if names:
            card = cards[names[0]]
            return SizeEstimate(
                served_bytes=card.served_bytes,
                resident_bytes=card.resident_bytes,
                basis=f"the report card of {names[0]}, which has {what}",
            )
    if DENSE not in cards:
        return SizeEstimate(
            served_bytes=None, resident_bytes=None, basis="no report card is similar"
        )
    share = math.prod(_size_share(step) for step in recipe)
    dense = cards[DENSE]
    return SizeEstimate(
        served_bytes=round(share * dense.served_bytes),
        resident_bytes=round(share * dense.resident_bytes),
        basis="the report card of dense and the usual effect of the techniques",
    )


def _size_share(step: Step) -> float:
    if step.technique == "structured":
        return 1 - float(with_defaults(step)["share"])
    return _SIZES.get(step.technique, 1.0)

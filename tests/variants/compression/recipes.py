"""Recipes for tests, by names of techniques."""

from __future__ import annotations

from typing import Any

from variants.catalog.recipe import Step

PARAMETERS: dict[str, dict[str, Any]] = {
    "activation-pruning": {"mean_below": 0.3, "deviation_below": 0.4},
    "low-rank": {"break_even": 0.7},
    "recover": {"epochs": 1},
    "structured": {"share": 0.3},
    "unstructured": {"share": 0.5},
    "weight-sharing": {"values": 16},
}
"""Parameters of the techniques that need some, and shorter training."""


def recipe(*kinds: str) -> tuple[Step, ...]:
    """Return a recipe of these techniques with the parameters of the table."""
    return tuple(Step(technique=kind, parameters=PARAMETERS.get(kind, {})) for kind in kinds)

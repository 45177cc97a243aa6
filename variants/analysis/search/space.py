"""The search space: families of recipes, each with one strength, from mild to strong.

Masks without a packed form are left out on purpose: zeros that are stored and multiplied lower none
of the costs of a search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from variants.analysis.search.goal import Cost
from variants.catalog.recipe import Recipe, Step

STRENGTH: Final = "<strength>"
"""Placeholder for the strength in a family's recipe."""

SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
ENERGIES: Final = (0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
CODES: Final = (256, 128, 64, 32, 16, 8, 4)


@dataclass(frozen=True)
class Family:
    """Recipes that differ in one number, the strength."""

    name: str
    lowers: frozenset[Cost]
    """Costs that it can lower. A search for another cost skips the family."""
    recipe: Recipe
    strengths: tuple[float, ...] = (0,)
    """Values of `STRENGTH`, the mildest first. A recipe without the placeholder has one level."""

    def at(self, level: int) -> Recipe:
        """Return the recipe of a level. Level 0 is the mildest."""
        strength = self.strengths[level]
        return tuple(
            Step(
                technique=step.technique,
                parameters={
                    name: strength if value == STRENGTH else value
                    for name, value in step.parameters.items()
                },
            )
            for step in self.recipe
        )

    def label(self, level: int) -> str:
        """Return a valid variant name for the recipe of a level."""
        if len(self.strengths) == 1:
            return self.name
        return f"{self.name}-{self.strengths[level]:g}"


def families(recover_epochs: int) -> tuple[Family, ...]:
    """Return the space, with this many recovery epochs after each step that loses accuracy."""
    recover = _step("recover", epochs=recover_epochs, distill=0.5)
    structured = _step("structured", share=STRENGTH, round_to=8)
    activation = _step("activation-pruning", share=STRENGTH)
    low_rank = _step("low-rank", energy=STRENGTH)
    int8 = _step("int8")
    size, storage = frozenset[Cost]({"parameters", "bytes", "latency"}), frozenset[Cost]({"bytes"})
    compute = frozenset[Cost]({"bytes", "latency"})
    return (
        Family("int8", compute, (int8,)),
        Family("structured", size, (structured, recover), SHARES),
        Family("structured-int8", compute, (structured, recover, int8), SHARES),
        Family("activation", size, (activation, recover), SHARES),
        Family("activation-int8", compute, (activation, recover, int8), SHARES),
        Family("low-rank", size, (low_rank, recover), ENERGIES),
        Family("low-rank-int8", compute, (low_rank, recover, int8), ENERGIES),
        Family("fp16", storage, (_step("fp16"),)),
        Family("weight-sharing", storage, (_step("weight-sharing", values=STRENGTH),), CODES),
    )


def _step(technique: str, **parameters: Any) -> Step:
    return Step(technique=technique, parameters=parameters)

"""Coverage: which weights of the model a step of a recipe changed, and which it left alone.

variants.build.coverage ─▶ StepCoverage ─▶ variant.json, reports, output of the build
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from variants.catalog.record import Record

_MAX_LISTED: Final = 4
"""Largest number of layers in one line."""


class Untouched(Record):
    """Weights that a step left alone."""

    layer: str
    """Name of the module, or of the parameter if that is not a layer's only one."""
    kind: str
    """Class of the module, such as GRU."""
    weights: int = Field(ge=0)
    reason: str


class StepCoverage(Record):
    """What one step of a recipe changed of the model that it was given."""

    technique: str
    weights: int = Field(ge=0)
    """Number of parameters of the model before the step; a shared one counts once."""
    touched: int = Field(ge=0)
    """Number of parameters in tensors that the step changed, masked, stored otherwise or removed
    in part."""
    untouched: tuple[Untouched, ...] = ()
    """The others, those with the most weights first."""

    @property
    def share(self) -> float:
        """Share of the parameters that the step touched, 0 to 1."""
        return self.touched / self.weights if self.weights else 0.0

    def describe(self, most: int | None = _MAX_LISTED) -> str:
        """Return one line: the share, and at most `most` of the layers that were left alone."""
        line = f"{self.technique}: {percent(self.share)} of {self.weights:,} weights"
        if not self.untouched:
            return line
        return f"{line}; left alone: {describe_untouched(self.untouched, most)}"


def describe_untouched(untouched: tuple[Untouched, ...], most: int | None = _MAX_LISTED) -> str:
    """Return the layers with their kinds, weights and reasons; at most `most` are named."""
    listed = untouched[:most]
    parts = [
        f"{each.layer} ({each.kind}, {each.weights:,} weights: {each.reason})" for each in listed
    ]
    if rest := untouched[len(listed) :]:
        parts.append(f"{len(rest)} more with {sum(each.weights for each in rest):,} weights")
    return "; ".join(parts)


def percent(share: float) -> str:
    """Format a share; no part of the whole reads 100 %, and something never reads 0 %."""
    rounded = f"{share:.1%}"
    if rounded == "100.0%" and share < 1:
        return ">99.9%"
    return "<0.1%" if rounded == "0.0%" and share > 0 else rounded

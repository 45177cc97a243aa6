"""Gradual pruning: the schedule of the pruned share over rounds, and training between rounds."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, ValidationInfo

from variants.catalog.parameter_rules import rounds_error
from variants.model.training import Schedule


def ramp(done: int, rounds: int) -> float:
    """Return the fraction of the final share to prune by the end of round `done`, 0 to 1.

    1 - (1 - done / rounds)^3, which rises fastest at first (Zhu and Gupta 2017, arXiv:1710.01878,
    equation 1).
    """
    return float(1 - (1 - done / rounds) ** 3)


def _require_rounds(recover: Schedule | None, info: ValidationInfo) -> Schedule | None:
    if error := rounds_error(info.data | {"recover": recover}):
        raise ValueError(error)
    return recover


BetweenRounds: TypeAlias = Annotated[Schedule | None, AfterValidator(_require_rounds)]
"""Training between rounds, none after the last. The field must follow the field `rounds`."""

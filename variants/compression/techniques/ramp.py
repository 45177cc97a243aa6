"""The ramp of what goes in several rounds, and training between them; for any way of pruning."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, ValidationInfo

from variants.model.training import Schedule


def ramp(done: int, rounds: int) -> float:
    """Return what part of the whole is to be gone after `done` of `rounds` rounds, 0 to 1.

    1 - (1 - done / rounds)^3: fast at first (Zhu and Gupta 2017, arXiv:1710.01878, (1)).
    """
    return float(1 - (1 - done / rounds) ** 3)


def _require_rounds(recover: Schedule | None, info: ValidationInfo) -> Schedule | None:
    if recover is not None and info.data.get("rounds") == 1:
        raise ValueError("it trains between rounds, and there is 1: use a step `recover`")
    return recover


BetweenRounds: TypeAlias = Annotated[Schedule | None, AfterValidator(_require_rounds)]
"""Training between rounds, none after the last; for a field that comes after `rounds`."""

"""Who waits hears which share of the work is done; what he draws of it is his affair."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

OnShare: TypeAlias = Callable[[float], None]
"""Hears the share of one piece of work that is done, 0 to 1."""


def unheard(share: float) -> None:
    """Nobody listens."""


def part(on_share: OnShare, index: int, of: int) -> OnShare:
    """Return what a piece of work reports to when it is number `index` of `of` equal ones."""
    return lambda share: on_share((index + share) / of)

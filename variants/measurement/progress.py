"""Who waits hears which share of the work is done; what he draws of it is his affair."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

ProgressCallback: TypeAlias = Callable[[float], None]
"""Hears the share of one piece of work that is done, 0 to 1."""


def ignore_progress(share: float) -> None:
    """Nobody listens."""


def part(on_progress: ProgressCallback, index: int, of: int) -> ProgressCallback:
    """Return what a piece of work reports to when it is number `index` of `of` equal ones."""
    return lambda share: on_progress((index + share) / of)

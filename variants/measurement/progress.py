"""Progress callbacks of measurements."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

ProgressCallback: TypeAlias = Callable[[float], None]
"""Receives the completed fraction of a task, 0 to 1."""

PhaseCallback: TypeAlias = Callable[[str, float], None]
"""Receives the phase of a measurement (answers, latency, memory) and its completed fraction."""


def ignore_progress(fraction: float) -> None:
    """Do nothing."""


def ignore_phases(phase: str, fraction: float) -> None:
    """Do nothing."""


def subtask(on_progress: ProgressCallback, index: int, count: int) -> ProgressCallback:
    """Return the callback for subtask number `index` of `count` equal subtasks."""
    return lambda fraction: on_progress((index + fraction) / count)

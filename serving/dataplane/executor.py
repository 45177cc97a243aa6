"""The seam between scheduler and hosts: something that runs payloads as one batch.

A link in production, a function in a test.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias


class HostLost(Exception):
    """A host went away, or fell silent, with a batch in its hands."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One batch's answers, one for each payload.

    `input_s` were spent on joining the payloads, `compute_s` by the host on computing.
    """

    answers: Sequence[Any]
    compute_s: float
    input_s: float = 0.0


Run: TypeAlias = Callable[[str, Sequence[Any]], Awaitable[Ran]]
"""Runs payloads as one batch on a variant; raises `HostLost` where trying again may help."""

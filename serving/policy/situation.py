"""What a policy is shown, and what it may answer.

    lanes of waiting requests + candidates + now ─▶ policy ─▶ Dispatch | Drop | Wait

A lane holds the requests that the same variants qualify for, with the same preference among them,
and that can share a batch; they all have a deadline or none has, and they stand in the order in
which to serve them. So a policy looks at a few lanes, however many requests wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias


class LaneKey(NamedTuple):
    """What requests have in common that wait in one lane."""

    variants: tuple[str, ...]
    """Those that qualify, best first."""
    fastest_first: bool = False
    """Prefer the variant that will answer first, whatever the order above."""
    has_deadline: bool = True
    signature: Hashable = None
    """What must be equal for two requests to share a batch."""


@dataclass(eq=False, slots=True)
class Waiting:
    """One queued request: `size` samples, due at `deadline` (infinite where it has none)."""

    size: int
    deadline: float
    order: tuple[float, int, int]
    """What the lane is sorted by: when to serve it, its priority, its number."""
    key: LaneKey
    entry: Any = None
    """The scheduler's own; no business of a policy."""


@dataclass(eq=False, slots=True)
class Lane:
    """Requests of one key, in order; `samples` is the sum of their sizes."""

    key: LaneKey
    requests: list[Waiting] = field(default_factory=list)
    samples: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant as it stands now. Times are in seconds."""

    name: str
    slots: int
    """Batches that its live replicas take at a time."""
    free_slots: int
    """Those of them that are free now."""
    free_in_s: float
    """When the next slot is expected to be free; 0 if one is."""
    max_batch: int
    predict_s: Callable[[int], float]
    """The time within which a batch of that many samples will very likely be answered."""
    idle_s: Callable[[int], float]
    """The time that a batch of that many samples takes at best."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send the first `count` requests of each lane in one batch."""

    variant: str
    counts: tuple[tuple[Lane, int], ...]
    size: int
    predicted_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """The lane's first request can no longer be answered in time by any variant."""

    lane: Lane


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing before something happens, or `until` comes."""

    until: float = math.inf


Decision: TypeAlias = Dispatch | Drop | Wait

Policy: TypeAlias = Callable[[Sequence[Lane], Mapping[str, Candidate], float], Decision]
"""Pure: no clock, no I/O, nothing remembered. `candidates` holds only variants that are alive."""

"""What a policy is shown, and what it may answer.

    Situation: lanes of waiting requests, candidates, cores, now ─▶ policy ─▶ Dispatch | Drop | Wait

A lane holds the requests that the same variants qualify for, with the same preference among them,
and that can share a batch; they all have a deadline or none has, and they stand in the order in
which to serve them. So a policy looks at a few lanes, however many requests wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

Payload = TypeVar("Payload")


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
class QueuedRequest(Generic[Payload]):
    """One queued request: `size` samples, due at `deadline` (infinite where it has none)."""

    size: int
    deadline: float
    order: tuple[float, int, int]
    """What the lane is sorted by: when to serve it, its priority, its number."""
    key: LaneKey
    payload: Payload
    """The scheduler's own; no business of a policy."""
    arrived: float = 0.0
    attempts: int = 0
    """How often it was sent to a host that was lost."""


@dataclass(eq=False, slots=True)
class Lane:
    """Requests of one key, in order; `samples` is the sum of their sizes."""

    key: LaneKey
    requests: list[QueuedRequest[Any]] = field(default_factory=list)
    samples: int = 0


class Times(Protocol):
    """What batches of a variant take, from dispatch to answer."""

    def typical_s(self, size: int) -> float:
        """Return the median time of a batch of `size` samples."""

    def within_s(self, size: int, quantile: float = ...) -> float:
        """Return the time that this share of batches stays within; 95 % if it is not said."""

    def miss_probability(self, size: int, left_s: float) -> float:
        """Return the probability that a batch of `size` samples takes longer than `left_s`."""


def drain_time_s(took_s: Callable[[int], float], samples: int, most: int) -> float:
    """Return the time for so many samples in full batches of `most`, and one of the rest.

    `took_s` gives the time that a batch of so many samples takes.
    """
    full, part = divmod(samples, most)
    needed_s = full * took_s(most) if full else 0.0
    return needed_s + took_s(part) if part else needed_s


@dataclass(frozen=True, slots=True)
class VariantState:
    """A variant as it stands now. Times are in seconds."""

    name: str
    accuracy: float
    slots: int
    """Batches that its live replicas take at a time."""
    free_slots: int
    """Those of them that are free now, with a core free to work on."""
    free_in_s: float
    """When the next slot, with a core, is expected to be free; 0 if one is."""
    max_batch: int
    times: Times
    best_case_s: Callable[[int], float]
    """The time that a batch of that many samples takes at best."""
    since_last_batch_s: float = 0.0
    """How long ago a batch of it was last answered."""
    sent: int = 0
    """How many batches it was sent so far."""

    def fits(self, most: int, within_s: float) -> int:
        """Return the largest batch, of at most `most` samples, very likely answered in that time.

        A power of two, or `most`; at least 1, whether that is in time or not.
        """
        size = max(1, min(most, self.max_batch))
        while size > 1 and self.times.within_s(size) > within_s:
            size = 1 << (size - 1).bit_length() - 1
        return size


@dataclass(frozen=True, slots=True)
class RouterState:
    """Everything that a policy may look at."""

    lanes: Sequence[Lane]
    """None of them is empty."""
    candidates: Mapping[str, VariantState]
    """The variants that are alive, best first."""
    now: float
    free_cores: float = math.inf
    """So many more batches can run without slowing those that do."""
    expected_misses: Callable[[float], float] = lambda held_s: 0.0
    """How many requests yet to come are expected to be late if a core is held for so long."""
    p10_slack_s: float = math.inf
    """Most of what may come allows at least so much time."""
    arrivals_per_s: float = 0.0
    """Samples, of late."""
    load: float = 0.0
    """What arrived of late, in what all cores could serve with the fastest variant for each."""
    recent_accuracy: float = 0.0
    """Mean accuracy of the variants that requests were sent to of late."""
    last: str | None = None
    """The variant of the last batch that was sent."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send `count` requests of each lane, from the one at `skip` on, in one batch."""

    variant: str
    counts: tuple[tuple[Lane, int], ...]
    size: int
    predicted_s: float
    reason: str
    skip: int = 0
    """Of the first lane: its first requests would be late anyway, and would delay these."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The lane's first request can no longer be answered in time by any variant."""

    lane: Lane


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing before something happens, or `until` comes."""

    until: float = math.inf


Decision: TypeAlias = Dispatch | Drop | Wait

Policy: TypeAlias = Callable[[RouterState], Decision]
"""Pure: no clock, no I/O, nothing remembered. Called until it says `Wait`."""

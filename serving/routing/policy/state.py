"""The input and the output of a routing policy.

    RouterState: lanes of queued requests, live variants, cores, now ─▶ policy
        ─▶ Dispatch | Drop | Wait

A lane holds the requests for which the same variants qualify in the same order of preference and
that can share a batch. Either all of them have a deadline or none has. A lane is sorted in the
order of service, so a policy examines a few lanes, regardless of the number of requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

Payload = TypeVar("Payload")
"""Data that the owner of a queue attaches to a request. Policies do not use it."""


class LaneKey(NamedTuple):
    """The properties that all requests of a lane share."""

    variants: tuple[str, ...]
    """Names of the variants that qualify, best first."""
    fastest_first: bool = False
    """Prefer the variant that is expected to answer first, not the first of `variants`."""
    has_deadline: bool = True
    signature: Hashable = None
    """Equal for two requests only if they can share a batch."""
    cheapest_first: bool = False
    """Prefer the first of `variants` to others that are as accurate and faster at the moment."""


class QueueOrder(NamedTuple):
    """The sort key of a lane."""

    due: float
    """When to serve the request, in seconds of the router's clock."""
    priority: int
    """1 is the highest priority."""
    number: int
    """Sequence number: of equal requests the older one comes first."""


@dataclass(eq=False, slots=True)
class QueuedRequest(Generic[Payload]):
    """A queued request of `size` samples with a `deadline`, infinite if it has none."""

    size: int
    deadline: float
    order: QueueOrder
    key: LaneKey
    payload: Payload
    arrived: float = 0.0
    attempts: int = 0
    """Number of times it was sent to a host that was lost."""
    is_behind: bool = False
    """Whether other requests were queued, or all hosts busy, when it was queued."""


@dataclass(eq=False, slots=True)
class Lane:
    """Queued requests with the same key, in order; `samples` is the sum of their sizes."""

    key: LaneKey
    requests: list[QueuedRequest[Any]] = field(default_factory=list)
    samples: int = 0


class BatchTimes(Protocol):
    """Predicted times of a variant's batches in seconds, from dispatch to answer."""

    @property
    def lag_s(self) -> float:
        """The part of every time that the gateway causes by being busy."""

    def typical_s(self, size: int) -> float:
        """Return the median time of a batch of `size` samples."""

    def within_s(self, size: int, quantile: float = ...) -> float:
        """Return a quantile of the time of a batch of `size` samples, by default 95 %."""

    def miss_probability(self, size: int, left_s: float) -> float:
        """Return the probability that a batch of `size` samples takes longer than `left_s`."""


def drain_time_s(took_s: Callable[[int], float], samples: int, max_batch: int) -> float:
    """Return the time to serve `samples` in full batches of `max_batch` and one of the rest.

    `took_s` returns the time of a batch by its size. All times are in seconds.
    """
    full, part = divmod(samples, max_batch)
    needed_s = full * took_s(max_batch) if full else 0.0
    return needed_s + took_s(part) if part else needed_s


@dataclass(eq=False, slots=True)
class VariantState:
    """The current state of a variant that has a live replica. Times are in seconds.

    It never changes. It is not frozen only because frozen instances take longer to create; the
    same holds for the classes below.
    """

    name: str
    accuracy: float
    """Accuracy of the variant's tier: equal for variants that count as equally accurate."""
    slots: int
    """Number of batches that its live replicas run at a time."""
    free_slots: int
    """Number of its slots that are free and have a free core."""
    free_in_s: float
    """Expected time until a slot and a core are free; 0 if they are free now."""
    max_batch: int
    times: BatchTimes
    best_case_s: Callable[[int], float]
    """Returns the shortest time that a batch of a given size can take."""
    batches_sent: int = 0
    """Number of batches that were sent to it so far."""
    overdue_s: float = 0.0
    """Time by which all its running batches exceed their typical times; 0 if a slot is free."""

    def largest_batch(self, limit: int, within_s: float) -> int:
        """Return the largest batch of at most `limit` samples whose 95 % quantile is in time.

        The result is `limit`, `max_batch` or a power of two below them. It is at least 1, even if
        a batch of 1 takes longer than `within_s`.
        """
        size = max(1, min(limit, self.max_batch))
        predicted_s = self.times.within_s
        while size > 1 and predicted_s(size) > within_s:
            size = 1 << (size - 1).bit_length() - 1
        return size

    def sustainable_batch(self, left_s: float) -> int:
        """Return the largest batch for which requests with `left_s` can wait for one like it.

        The time is halved, as in Nexus (SOSP'19, section 4.1): one half is for waiting. The lag
        of the gateway is not halved, because a smaller batch does not shorten it.
        """
        lag_s = self.times.lag_s
        return self.largest_batch(self.max_batch, lag_s + (left_s - lag_s) / 2)


@dataclass(slots=True)
class RouterState:
    """Everything that a policy may use."""

    lanes: Sequence[Lane]
    """The lanes that are not empty."""
    variants: Mapping[str, VariantState]
    """The variants with a live replica by name, most accurate first."""
    now: float
    free_cores: float = math.inf
    """Number of further batches that can run without slowing down the running ones."""
    expected_misses: Callable[[float], float] = lambda held_s: 0.0
    """Returns how many future requests are expected to miss their deadlines if a core is occupied
    for a given time, in seconds."""
    p10_slack_s: float = math.inf
    """10th percentile of the time, in seconds, that recent requests allowed."""
    arrivals_per_s: float = 0.0
    """Recent arrival rate in samples per second."""
    offered_load: float = 0.0
    """Recent arrivals as a share of what all cores can serve with the fastest variant of each."""
    recent_accuracy: float = 0.0
    """Moving average of the accuracy of the variants that recent requests were sent to."""
    last_variant: str | None = None
    """Name of the variant of the last batch."""


@dataclass(slots=True)
class Dispatch:
    """Send one batch: `counts` has the number of requests to take from each lane.

    They are taken from the start of a lane, but from the request at `skip` in the first lane.
    """

    variant: str
    counts: tuple[tuple[Lane, int], ...]
    size: int
    """Number of samples in the batch."""
    predicted_s: float
    """95 % quantile of the batch's time."""
    reason: str
    """Reason code, for explanations and metrics."""
    skip: int = 0
    """Number of requests to leave out at the start of the first lane: they would be late anyway
    and would delay the batch."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Drop the lane's first request: no variant can answer it in time any more."""

    lane: Lane


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing until `until` or until the state changes, whichever comes first."""

    until: float = math.inf


Decision: TypeAlias = Dispatch | Drop | Wait

Policy: TypeAlias = Callable[[RouterState], Decision]
"""A pure function: no clock, no I/O, no memory. It is called again until it returns `Wait`."""

"""The steps of the planner: what its caller has to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias

from serving.errors import NotReady
from serving.routing.policy.state import Payload, QueuedRequest


@dataclass(slots=True)
class Send(Generic[Payload]):
    """Send these requests in one batch, and call `Planner.end_batch` when it has ended."""

    number: int
    """Identifies the batch."""
    variant: str
    batch: Sequence[QueuedRequest[Payload]]
    size: int
    """Number of samples in the batch."""
    predicted_s: float
    """95 % quantile of the time from dispatch to answer, in seconds."""
    reason: str
    """Reason code of the policy."""


@dataclass(frozen=True, slots=True)
class Expired(Generic[Payload]):
    """Fail this request: no variant can answer it in time any more."""

    request: QueuedRequest[Payload]
    best_case_s: float
    """The shortest time, in seconds, in which a variant could answer it now."""


@dataclass(frozen=True, slots=True)
class NoReplica(Generic[Payload]):
    """Fail these requests with `error`: no replica of their variants is alive in time.

    `variants` are the names of the variants that qualify for them.
    """

    requests: Sequence[QueuedRequest[Payload]]
    variants: tuple[str, ...]
    error: NotReady


@dataclass(frozen=True, slots=True)
class Shadow(Generic[Payload]):
    """Run a copy of this request alone, discard the result, and call `Planner.end_batch`.

    The request itself has been answered. The copy only measures the variant's time.
    """

    number: int
    """Identifies the batch."""
    variant: str
    request: QueuedRequest[Payload]


@dataclass(slots=True)
class Idle:
    """Do nothing until `until` or until the state changes, whichever comes first."""

    until: float


Step: TypeAlias = Send[Payload] | Expired[Payload] | NoReplica[Payload] | Shadow[Payload] | Idle

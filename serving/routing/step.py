"""The steps of the planner: what the scheduler has to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias

from serving.routing.policy.state import Payload, QueuedRequest


@dataclass(frozen=True, slots=True)
class Send(Generic[Payload]):
    """Send these requests in one batch; then tell `end_batch` with its number."""

    number: int
    variant: str
    batch: Sequence[QueuedRequest[Payload]]
    size: int
    predicted_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Expired(Generic[Payload]):
    """No variant can answer this one in time any more."""

    waiting: QueuedRequest[Payload]


@dataclass(frozen=True, slots=True)
class NoReplica(Generic[Payload]):
    """These have no deadline, and nobody has been there to serve them for too long."""

    batch: Sequence[QueuedRequest[Payload]]
    variants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing to do before something happens, or `until` comes."""

    until: float


Step: TypeAlias = Send[Payload] | Expired[Payload] | NoReplica[Payload] | Idle

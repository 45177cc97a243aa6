"""What the reconciler may do to bring a cluster to the desired state, as data.

    decision ─▶ actions ─▶ reconciler

Repeating an action has no effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from serving.control.state import Job


@dataclass(frozen=True)
class Build:
    """Mark a job as started, then start its builder."""

    job: Job


@dataclass(frozen=True)
class EndBuild:
    """End the builder of a job."""

    job: str


@dataclass(frozen=True)
class Cancelled:
    """Record that the builder of a job that was to be cancelled has ended."""

    job: str


@dataclass(frozen=True)
class Requeue:
    """Put a job whose builder is lost back into the queue."""

    job: str
    why: str


@dataclass(frozen=True)
class Fail:
    """End a job without success; its generation gets no request."""

    job: str
    error: str


@dataclass(frozen=True)
class Deploy:
    """Start the hosts of a generation."""

    variant: str
    generation: int


@dataclass(frozen=True)
class Delete:
    """Stop the hosts of a generation."""

    variant: str
    generation: int
    failed: bool = False
    """Its hosts could not start: wait before they are deployed again."""


@dataclass(frozen=True)
class Publish:
    """Probe a warm generation, then send requests to it and drain the one that got them so far."""

    variant: str
    generation: int


@dataclass(frozen=True)
class Routed:
    """End a job that has published: gateways have followed, or are awaited no longer."""

    variant: str


@dataclass(frozen=True)
class Drained:
    """Record that a generation has no hosts any more."""

    variant: str
    generation: int


@dataclass(frozen=True)
class Removed:
    """Record that a variant has no hosts any more and is removed."""

    variant: str


@dataclass(frozen=True)
class SetError:
    """Record the last error of a generation in words."""

    variant: str
    generation: int
    error: str | None


Action: TypeAlias = (
    Build
    | EndBuild
    | Cancelled
    | Requeue
    | Fail
    | Deploy
    | Delete
    | Publish
    | Routed
    | Drained
    | Removed
    | SetError
)

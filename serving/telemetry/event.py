"""Events of a gateway that the metrics and the statistics count. Times are in seconds.

`variant` is always a routing key, which stands for one generation of a variant. Events are not
changed after their construction. Those of requests and batches are not frozen dataclasses, because
it takes three times as long to construct one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Answered:
    """A request was answered by a variant."""

    variant: str
    arm: str
    took_s: float
    queue_s: float
    input_s: float
    compute_s: float
    output_s: float
    predicted_s: float
    accuracy: float
    agreement: float
    has_deadline: bool
    is_on_time: bool


@dataclass(slots=True)
class Executed:
    """A host ran a batch. `output_s` is the time that is neither joining nor computing."""

    variant: str
    samples: int
    input_s: float
    compute_s: float
    output_s: float


@dataclass(frozen=True, slots=True)
class HostUsage:
    """The live host replicas of a variant, and the sum of their memory in bytes."""

    variant: str
    replicas: int
    resident_bytes: int
    gpu_memory_bytes: int | None
    provider: str | None = None
    """What executes the variant; None without hosts."""

"""What happens in a gateway and is worth counting: the metrics and the statistics both hear of it.

Times are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answered:
    """One request that got an answer."""

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


@dataclass(frozen=True, slots=True)
class Executed:
    """One batch that a host has run; `output_s` is all but joining it and computing."""

    variant: str
    samples: int
    input_s: float
    compute_s: float
    output_s: float


@dataclass(frozen=True, slots=True)
class Counted:
    """The live host replicas of a variant, and their memory in bytes, summed."""

    variant: str
    replicas: int
    resident_bytes: int
    gpu_memory_bytes: int | None

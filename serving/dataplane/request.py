"""One request as the scheduler knows it, from the queue to its answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from serving.errors import ServingError

Stage: TypeAlias = Literal["queued", "running"]
"""How far a request had come."""


@dataclass(frozen=True, slots=True)
class Served:
    """One request's answer, and how it came about. Times are in seconds."""

    variant: str
    answer: Any
    reason: str
    batch_size: int
    queue_s: float
    predicted_s: float
    """From arrival to answer, as it looked when the batch was sent."""
    input_s: float
    compute_s: float
    output_s: float
    """The rest from dispatch to answer: the way to the host and back, and parting the batch."""


@dataclass(eq=False, slots=True)
class PendingRequest:
    """A request that waits or runs; its caller awaits the future."""

    payload: Any
    future: asyncio.Future[Served]
    stage: Stage = "queued"

    def fail(self, error: ServingError) -> None:
        """Answer with an error, unless it is answered."""
        if not self.future.done():  # its caller may have gone
            self.future.set_exception(error)

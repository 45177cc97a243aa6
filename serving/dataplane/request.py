"""A request inside the scheduler, and its result."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from serving.errors import ServingError

Input = TypeVar("Input")
Output = TypeVar("Output")
Output_co = TypeVar("Output_co", covariant=True)

Stage: TypeAlias = Literal["queued", "running"]
"""The progress of a request through the scheduler."""


@dataclass(frozen=True, slots=True)
class RequestResult(Generic[Output_co]):
    """The outputs of one request, and how they were computed. Times are in seconds."""

    variant: str
    """Routing key of the variant."""
    outputs: Output_co
    reason: str
    """Reason code of the policy, `Dispatch.reason`."""
    batch_size: int
    """Samples in the batch of which the request was a part."""
    queue_s: float
    predicted_s: float
    """Time from arrival to answer, as predicted when the batch was sent."""
    input_s: float
    compute_s: float
    output_s: float
    """Rest of the time from dispatch to answer: transfer to and from the host, and the split."""
    returned_at: float
    """When the batch was back at the gateway, in seconds of its clock."""


@dataclass(eq=False, slots=True)
class PendingRequest(Generic[Input, Output]):
    """A queued or running request. Its caller awaits the future."""

    inputs: Input
    future: asyncio.Future[RequestResult[Output]]
    stage: Stage = "queued"

    def fail(self, error: ServingError) -> None:
        """Answer with an error, unless the request is answered or its caller has disconnected."""
        if not self.future.done():
            self.future.set_exception(error)

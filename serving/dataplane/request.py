"""A request inside the scheduler, and its result.

The result is passed to a callback, without a task or a future for each request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from serving.errors import ServingError

logger = logging.getLogger(__name__)

Input = TypeVar("Input")
Output = TypeVar("Output")
T = TypeVar("T")

Stage: TypeAlias = Literal["queued", "running", "ended"]
"""The progress of a request through the scheduler."""


# Neither class is frozen: each request makes one of them, and that would triple its cost.
@dataclass(slots=True)
class RequestResult(Generic[Output]):
    """The outputs of one request, and how they were computed. Times are in seconds."""

    variant: str
    """Routing key of the variant."""
    outputs: Output
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


OnEnd: TypeAlias = Callable[[T | Exception], None]
"""Is called once with the result of a request, or with the exception with which it failed: a
`ServingError`, unless it was not foreseen."""


@dataclass(eq=False, slots=True)
class PendingRequest(Generic[Input, Output]):
    """A request, from its admission until its result has been passed on."""

    inputs: Input
    on_end: OnEnd[RequestResult[Output]]
    stage: Stage = "queued"

    def end(self, result: RequestResult[Output] | ServingError) -> None:
        """Pass on the result, unless the request has ended: its caller may have cancelled it."""
        if self.stage == "ended":
            return
        on_end = self.on_end
        self.drop()
        try:
            on_end(result)
        except Exception:  # the other requests of a batch must be answered all the same
            logger.exception("the result of a request could not be passed on")

    def drop(self) -> None:
        """End the request without a result.

        The callback is forgotten: it knows the connection, and the inputs may be kept for a while.
        """
        self.stage = "ended"
        self.on_end = _ignore


def _ignore(result: object) -> None:
    """Do nothing with the result of a request that has ended."""

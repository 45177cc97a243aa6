"""The outcomes of all requests of a workload, the result of a simulation or a replay."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from loadtests.workload.workload import Workload


class RequestStatus(IntEnum):
    """The way in which a request ended."""

    LOST = 0
    """No response; it must not occur in a simulation."""
    ANSWERED = 1
    """Answered with an inference result, on time or late."""
    SHED = 2
    """Overloaded, HTTP 429: rejected on arrival, or displaced by a request of higher priority."""
    EXPIRED = 3
    """DeadlineExceeded, HTTP 504."""
    UNATTAINABLE = 4
    """SloUnattainable, HTTP 422: no variant meets the SLO, even on an idle service."""
    FAILED = 5
    """Any other error, which is a fault of the service."""


@dataclass(frozen=True, slots=True)
class Batches:
    """All answered batches, one per row, in order of completion."""

    variant: npt.NDArray[np.int16]
    """Index into `Outcomes.variants`."""
    size: npt.NDArray[np.int32]
    """Number of samples."""
    sent_s: npt.NDArray[np.float64]
    predicted_s: npt.NDArray[np.float64]
    """Predicted 95th percentile of the time from dispatch to response."""
    took_s: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Outcomes by request, in the order of the workload.

    Times are in seconds from the start of the workload.
    """

    workload: Workload
    policy: str
    variants: tuple[str, ...]
    status: npt.NDArray[np.int8]
    variant: npt.NDArray[np.int16]
    """Index into `variants` of the variant that answered; -1 if none did."""
    finished_s: npt.NDArray[np.float64]
    """Time of the response or the error; NaN if there was none."""
    batch_size: npt.NDArray[np.int32]
    """Number of samples in the batch of the request; 0 if it was not answered."""
    batches: Batches | None
    """None if unknown: the responses of a live service had no parameters about batches."""

    @property
    def on_time(self) -> npt.NDArray[np.bool_]:
        """Whether each request was answered by its deadline, measured from its arrival time."""
        took_s = self.finished_s - self.workload.arrivals_s
        within: npt.NDArray[np.bool_] = took_s <= self.workload.latencies_s  # False for NaN
        answered: npt.NDArray[np.bool_] = self.status == RequestStatus.ANSWERED
        return within & answered

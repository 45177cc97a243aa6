"""What became of every request of a workload: the one result of a simulation and of a replay."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from loadtests.workload.workload import Workload


class RequestStatus(IntEnum):
    """How a request ended."""

    LOST = 0
    """Never: no request may end so."""
    ANSWERED = 1
    """With a prediction, in time or late."""
    SHED = 2
    """Overloaded, HTTP 429: refused at once, or for one of higher priority."""
    EXPIRED = 3
    """DeadlineExceeded, HTTP 504."""
    UNATTAINABLE = 4
    """SloUnattainable, HTTP 422: no variant could, even when idle."""
    FAILED = 5
    """Anything else, the service's fault."""


@dataclass(frozen=True, slots=True)
class Batches:
    """Every batch that was answered, in order of its end; one row each."""

    variant: npt.NDArray[np.int16]
    """Place in `Outcomes.variants`."""
    size: npt.NDArray[np.int32]
    """Samples."""
    sent_s: npt.NDArray[np.float64]
    predicted_s: npt.NDArray[np.float64]
    """From dispatch to answer: what 95 % of such batches were expected to stay within."""
    took_s: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """By request, in the order of the workload. Times are seconds from the workload's start."""

    workload: Workload
    policy: str
    variants: tuple[str, ...]
    status: npt.NDArray[np.int8]
    variant: npt.NDArray[np.int16]
    """Place in `variants` of the one that answered; -1 where none did."""
    finished_s: npt.NDArray[np.float64]
    """When the answer, or the refusal, came; NaN where none did."""
    batch_size: npt.NDArray[np.int32]
    """Samples in the batch that it was answered in; 0 where it was not answered."""
    batches: Batches | None
    """None where they are not known: no answer of a live service told of its batch."""

    @property
    def on_time(self) -> npt.NDArray[np.bool_]:
        """By request: answered within the time it gave, counted from its intended arrival."""
        took_s = self.finished_s - self.workload.arrivals_s
        within: npt.NDArray[np.bool_] = took_s <= self.workload.latencies_s  # NaN: within nothing
        answered: npt.NDArray[np.bool_] = self.status == RequestStatus.ANSWERED
        return within & answered

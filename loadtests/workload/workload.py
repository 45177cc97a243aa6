"""A workload: requests with arrival times and SLO classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.routing.slo import Slo


@dataclass(frozen=True, slots=True)
class SloClass:
    """Requests with the same SLO and size; shares are relative to the sum over all classes."""

    name: str
    slo: Slo
    share: float = 1.0
    size: int = 1
    """Samples per request."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of arrival; all policies of a comparison receive the same workload."""

    name: str
    arrivals_s: npt.NDArray[np.float64]
    """Arrival times by request, in seconds from the start, in ascending order."""
    class_of: npt.NDArray[np.int16]
    """Index into `classes` by request."""
    classes: tuple[SloClass, ...]
    seconds: float
    """Duration of the arrivals."""

    def __len__(self) -> int:
        return len(self.arrivals_s)

    @property
    def latencies_s(self) -> npt.NDArray[np.float64]:
        """Relative deadlines by request, in seconds; infinite for requests without a deadline."""
        return np.array([each.slo.latency_s for each in self.classes])[self.class_of]

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Samples by request."""
        return np.array([each.size for each in self.classes])[self.class_of]

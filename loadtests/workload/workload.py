"""A workload: requests that arrive at given times, each of a class that says what it asks for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.routing.slo import Slo


@dataclass(frozen=True, slots=True)
class SloClass:
    """Requests that ask for the same; `share` of all requests, relative to the other classes."""

    name: str
    slo: Slo
    share: float = 1.0
    size: int = 1
    """Samples in one request."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of arrival; the same for every policy that is compared on it."""

    name: str
    arrivals_s: npt.NDArray[np.float64]
    """Seconds from the start, never decreasing."""
    class_of: npt.NDArray[np.int16]
    """By request: the place of its class in `classes`."""
    classes: tuple[SloClass, ...]
    seconds: float
    """How long requests arrive for."""

    def __len__(self) -> int:
        return len(self.arrivals_s)

    @property
    def latencies_s(self) -> npt.NDArray[np.float64]:
        """By request: the time it may take; infinite where it has no deadline."""
        return np.array([each.slo.latency_s for each in self.classes])[self.class_of]

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """By request: its samples."""
        return np.array([each.size for each in self.classes])[self.class_of]

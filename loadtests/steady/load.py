"""The load that the client applies to a service, and the record of every request of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

UNSENT: Final = -2
"""Stands for the HTTP status of a request that found no free connection, or no time to be sent."""

DEFAULT_CONNECTIONS: Final = 1000
"""Default maximum number of connections of the open loop."""

DRAIN_S: Final = 2.0
"""Time that a run waits for the last responses, in seconds; it aborts the others."""


def no_arrivals() -> Floats:
    """Return no arrival times."""
    return np.empty(0)


@dataclass(frozen=True)
class Load:
    """Clients in a closed loop, requests in an open loop, or both at once.

    A client in the closed loop sends the next request as soon as the previous one has ended, in
    whatever way. A request of the open loop is sent at its arrival time over a free connection; if
    there is none and `connections` are open, it is not sent.
    """

    host: str
    port: int
    requests: tuple[bytes, ...]
    """HTTP requests, which are sent in rotation."""
    seconds: float
    """Time during which requests are sent, in seconds."""
    clients: int = 0
    """Clients in the closed loop."""
    arrivals_s: Floats = field(default_factory=no_arrivals)
    """Arrival times of the open loop, in seconds from the start, ascending."""
    connections: int = DEFAULT_CONNECTIONS
    """Maximum number of connections of the open loop."""
    keeps_connections: bool = True
    """Whether connections are kept. Otherwise each request has its own."""
    obeys_retry_after: bool = False
    """Whether a client in the closed loop waits as long as `Retry-After` of a 429 response says."""
    is_real_time: bool = True
    """Whether the client runs with real-time priority, if it may."""
    sample_every: int = 0
    """Interval, in responses of status 200, at which their JSON is kept; 0 means never."""


@dataclass(frozen=True)
class LoadRecord:
    """Every request of a run. Arrays are by request; times are those of `time.monotonic()`."""

    started_s: float
    due_s: Floats
    """When a request was to be sent: its arrival, or the end of the client's previous request."""
    ended_s: Floats
    """Time of the last byte of the response, of the lost connection, or of giving up on sending.
    NaN if the request had none of these when the run ended."""
    http_status: npt.NDArray[np.int16]
    """HTTP status; `NO_RESPONSE`, `DISCONNECTED` or `UNSENT` if there is none."""
    delays_s: Floats
    """How late the client processed arrivals and periodic timers, in seconds."""
    cpu_share: float
    """CPU time of the client divided by the duration of the run."""
    contents: Mapping[int, bytes] = field(default_factory=dict)
    """JSON of sampled responses, by request."""

    @property
    def latency_s(self) -> Floats:
        """Time from when each request was to be sent until it ended, in seconds."""
        return self.ended_s - self.due_s

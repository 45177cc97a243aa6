"""Statistics of the load client: its own delay is part of every latency that it measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_DELAY_S: Final = 0.002
"""Maximum of the 99th percentile of the client's delay in a valid run."""


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """Delays, waits for connections, and resources of the client during one run."""

    delay_p50_s: float
    """Delay from the arrival time of a request in the workload until the client processes it."""
    delay_p99_s: float
    delay_max_s: float
    waited: int
    """Number of requests that found no free connection."""
    waited_max_s: float
    """Longest wait for a connection, of the requests that got one."""
    connections: int
    """Largest number of open connections."""
    cpu_s: float
    """CPU time of the client process during the run."""
    is_real_time: bool
    """Whether the client had real-time priority; see `real_time_scheduling`."""

    def check(self, limit_s: float = MAX_DELAY_S) -> None:
        """Raise ValueError with a remedy if the 99th percentile of the delay exceeds the limit."""
        if self.delay_p99_s > limit_s:
            raise ValueError(
                f"the client sent 1 % of the requests more than {self.delay_p99_s * 1e3:.2f} ms "
                f"late, and the limit is {limit_s * 1e3:g} ms: the latencies include delays of the "
                "client. Lower the rate, run the client as root, so that Linux gives it real-time "
                "priority, or run it on another machine"
            )


def summarize_client(
    intended_s: npt.NDArray[np.float64],
    due_s: npt.NDArray[np.float64],
    sent_s: npt.NDArray[np.float64],
    *,
    connections: int,
    cpu_s: float,
    is_real_time: bool,
) -> ClientStatistics:
    """Summarize the times of each request: its arrival, when it was processed, when it was sent.

    `sent_s` equals `due_s` if a connection was free, and is NaN if none became free.
    """
    delay_s = due_s - intended_s
    p50_s, p99_s = np.quantile(delay_s, [0.5, 0.99])
    waits_s = (sent_s - due_s)[sent_s != due_s]  # includes NaN
    return ClientStatistics(
        delay_p50_s=float(p50_s),
        delay_p99_s=float(p99_s),
        delay_max_s=float(delay_s.max()),
        waited=len(waits_s),
        waited_max_s=float(np.nanmax(waits_s, initial=0.0)),
        connections=connections,
        cpu_s=cpu_s,
        is_real_time=is_real_time,
    )

"""How well the client itself kept up: what it adds to a latency is not the service's doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_DELAY_S: Final = 0.002
"""The lag that one request in a hundred may have in a run that counts."""


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """The client's own lateness, which counts into every latency that it measured."""

    delay_p50_s: float
    """From the time that a request was meant for until the client came to it."""
    delay_p99_s: float
    delay_max_s: float
    waited: int
    """Requests that found no free connection."""
    waited_max_s: float
    """The longest that one of them, which was sent at last, waited for one."""
    connections: int
    """The most that were open at a time."""
    cpu_s: float
    """The processor time of this process during the run."""
    is_real_time: bool
    """Whether it ran before the service wherever both wanted a core: see `real_time_scheduling`."""

    def check(self, limit_s: float = MAX_DELAY_S) -> None:
        """Raise `ValueError` that says what would help if more than 1 % were later than this."""
        if self.delay_p99_s > limit_s:
            raise ValueError(
                f"the client itself was {self.delay_p99_s * 1e3:.2f} ms late with one request in a "
                f"hundred, and may be {limit_s * 1e3:g} ms late: these latencies are not the "
                "service's alone. Lower the rate, run the client as root, for which Linux makes "
                "it the first to run, or run it on another machine"
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
    """Summarize by request when it was meant for, when the client came to it, when it was sent.

    `sent_s` is `due_s` where a connection was free, and NaN where none became free.
    """
    late_s = due_s - intended_s
    p50_s, p99_s = np.quantile(late_s, [0.5, 0.99])
    waits_s = (sent_s - due_s)[sent_s != due_s]  # NaN is unlike anything
    return ClientStatistics(
        delay_p50_s=float(p50_s),
        delay_p99_s=float(p99_s),
        delay_max_s=float(late_s.max()),
        waited=len(waits_s),
        waited_max_s=float(np.nanmax(waits_s, initial=0.0)),
        connections=connections,
        cpu_s=cpu_s,
        is_real_time=is_real_time,
    )

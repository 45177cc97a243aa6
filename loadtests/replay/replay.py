"""Replays a workload against a running service in an open loop.

    workload ─▶ timer ─▶ connection pool ─▶ service ─▶ request log ─▶ ReplayResult

Requests are sent at their arrival times, whether or not earlier ones have been answered. Latency is
measured from the arrival time, so a stall of the service shows in all requests that arrive during
it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import uvloop

from loadtests.client.service import connect
from loadtests.replay.client_statistics import ClientStatistics, summarize_client
from loadtests.replay.frozen_heap import frozen_heap
from loadtests.replay.pool import ConnectionPool
from loadtests.replay.real_time import real_time_scheduling
from loadtests.replay.reported import ReportedTimes, parse_responses
from loadtests.replay.request_bytes import build_requests
from loadtests.replay.request_log import RequestLog
from loadtests.replay.timer import create_timer
from loadtests.trials.outcomes import Outcomes
from loadtests.workload.workload import Workload

CONNECTIONS: Final = 512
"""Default maximum number of open connections."""
GRACE_S: Final = 10.0
"""Default time, in seconds, for the last responses."""
_INITIAL_CONNECTIONS: Final = 32
"""Number of connections that are opened before the workload starts."""
_START_DELAY_S: Final = 0.02
"""Time between the end of the preparation and the start of the workload."""
_MAX_CONSECUTIVE_SENDS: Final = 16
"""Maximum number of requests sent in a row; more would delay the processing of responses."""


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The outcomes of a workload on a running service."""

    outcomes: Outcomes
    reported: ReportedTimes
    client: ClientStatistics
    """`client.check()` raises ValueError if the client distorted the outcomes."""
    sent_s: npt.NDArray[np.float64]
    """Sending times by request, in seconds from the start; NaN if a request got no connection."""
    first_failure: str
    """Response to, or reason of, the first failed request; empty if there is none."""
    started_s: float
    """Start of the workload, as `time.monotonic()`."""


def run_replay(
    url: str,
    workload: Workload,
    *,
    policy: str = "live",
    seed: int = 0,
    connections: int = CONNECTIONS,
    grace_s: float = GRACE_S,
) -> ReplayResult:
    """Run `replay` in a new uvloop event loop."""
    return uvloop.run(
        replay(
            url,
            workload,
            policy=policy,
            seed=seed,
            connections=connections,
            grace_s=grace_s,
        )
    )


async def replay(
    url: str,
    workload: Workload,
    *,
    policy: str = "live",
    seed: int = 0,
    connections: int = CONNECTIONS,
    grace_s: float = GRACE_S,
) -> ReplayResult:
    """Send every request of a workload to the service at an http URL; return the outcomes.

    `policy` is the name of the policy in the result; the service does not report its own. `seed`
    determines the inputs. At most `connections` are open at a time. A request that finds no free
    one waits, which counts as latency. Requests without a response `grace_s` after the last arrival
    are lost. Responses are kept in memory until the end, about 0.5 kB each. The calling thread has
    real-time priority during the run, if possible.

    Raises ValueError with a remedy if the workload is empty, if there is no service at the URL, or
    if it is not ready; OSError if the service ends before the first request is sent.
    """
    if not len(workload):
        raise ValueError(
            f"workload {workload.name} has no requests; increase the duration or the rate"
        )
    if connections < 1:
        raise ValueError(f"connections must be at least 1, got {connections}")
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"the URL must be http://HOST:PORT, got {url!r}")
    url = url.rstrip("/")
    service = await asyncio.to_thread(connect, url)
    path = urlsplit(url).path + service.path
    log = RequestLog(len(workload))
    pool = ConnectionPool(
        parts.hostname,
        parts.port or 80,
        connections,
        build_requests(service, path, workload, seed),
        log,
    )
    with frozen_heap(), real_time_scheduling() as is_real_time:
        try:
            await pool.open(min(connections, _INITIAL_CONNECTIONS))
            cpu_s = time.process_time()
            start_s = time.monotonic() + _START_DELAY_S
            await _send_all(workload, pool, log, start_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await log.all_finished.wait()
            cpu_s = time.process_time() - cpu_s
        finally:
            await pool.close()
    responses = parse_responses(log, service.metadata["versions"])
    outcomes = Outcomes(
        workload=workload,
        policy=policy,
        variants=responses.variants,
        status=responses.status,
        variant=responses.variant,
        finished_s=np.array(log.finished_s) - start_s,
        batch_size=responses.batch_size,
        batches=None,
    )
    client = summarize_client(
        workload.arrivals_s + start_s,
        np.array(log.due_s),
        np.array(log.sent_s),
        connections=pool.max_open,
        cpu_s=cpu_s,
        is_real_time=is_real_time,
    )
    sent_s = np.array(log.sent_s) - start_s
    return ReplayResult(
        outcomes, responses.reported, client, sent_s, responses.first_failure, start_s
    )


async def _send_all(
    workload: Workload, pool: ConnectionPool, log: RequestLog, start_s: float
) -> None:
    """Pass each request to the pool at its arrival time; return after the last one."""
    due_s = (workload.arrivals_s + start_s).tolist()
    all_sent = asyncio.Event()
    next_number = 0

    def send_due() -> None:
        nonlocal next_number
        for number in range(next_number, min(next_number + _MAX_CONSECUTIVE_SENDS, len(due_s))):
            now_s = time.monotonic()
            if due_s[number] > now_s:
                break
            log.due_s[number] = now_s
            pool.send(number, now_s)
            next_number = number + 1
        if next_number < len(due_s):
            timer.set(due_s[next_number])
        else:
            all_sent.set()

    timer = create_timer(send_due)
    try:
        timer.set(due_s[0])
        await all_sent.wait()
    finally:
        timer.close()

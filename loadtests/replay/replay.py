"""Sends the requests of a workload to a running service at their times, answered or not.

    workload ─▶ alarm ─▶ pool ─▶ service ─▶ ledger ─▶ outcomes, what was said, own lag

An open loop: a service that stalls shows in every request that was due meanwhile, since latency
counts from the time that a request was meant for, not from when it could be sent.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import uvloop

from loadtests.client.service import connect
from loadtests.replay.client_statistics import ClientStatistics, summarize_client
from loadtests.replay.pool import ConnectionPool
from loadtests.replay.real_time import real_time_scheduling
from loadtests.replay.reported import ReportedTimes, parse
from loadtests.replay.request_bytes import build_requests
from loadtests.replay.request_log import RequestLog
from loadtests.replay.timer import create_timer
from loadtests.trials.outcomes import Outcomes
from loadtests.workload.workload import Workload

CONNECTIONS: Final = 512
GRACE_S: Final = 10.0
_OPENED_BEFORE: Final = 32
_HEAD_START_S: Final = 0.02
_AT_ONCE: Final = 16
"""Requests that are sent before answers are looked for again: those would seem late."""


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """A workload as a running service saw it."""

    outcomes: Outcomes
    reported: ReportedTimes
    client: ClientStatistics
    """`lag.check()` tells whether the outcomes are the service's doing."""
    sent_s: npt.NDArray[np.float64]
    """By request: seconds from the start; NaN where it waited for a connection for ever."""
    first_failure: str
    """What the first request that failed was told; empty where none did."""
    started_s: float
    """When the workload started, by `time.monotonic()`."""


def replay_now(
    url: str,
    workload: Workload,
    *,
    policy: str = "live",
    seed: int = 0,
    connections: int = CONNECTIONS,
    grace_s: float = GRACE_S,
) -> ReplayResult:
    """Do what `replay` does, in an event loop of its own that is fast."""
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
    """Send every request of a workload to the service at an http URL; see what becomes of it.

    `policy` names the result: which one the service has, it does not tell. `seed` is of the inputs.
    At most so many `connections` are open at a time; a request that finds none free waits for one,
    and that counts too. What is not answered `grace_s` after the last arrival is lost. The answers
    are kept until the end, about half a kilobyte each. Meanwhile the calling thread has real-time
    priority, where it may.

    Raises `ValueError` that says what would help: no such service, not ready, no request; `OSError`
    if the service is gone before the first request is sent.
    """
    if not len(workload):
        raise ValueError(f"the workload {workload.name} has no request; make it longer, or denser")
    if connections < 1:
        raise ValueError(f"connections must be at least 1, got {connections}")
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"the URL must be http://HOST:PORT, got {url!r}")
    url = url.rstrip("/")
    service = await asyncio.to_thread(connect, url)
    path = urlsplit(url).path + service.path
    ledger = RequestLog(len(workload))
    pool = ConnectionPool(
        parts.hostname,
        parts.port or 80,
        connections,
        build_requests(service, path, workload, seed),
        ledger,
    )
    with _quiet_collector(), real_time_scheduling() as is_real_time:
        try:
            await pool.open(min(connections, _OPENED_BEFORE))
            cpu_s = time.process_time()
            start_s = time.monotonic() + _HEAD_START_S
            await _send_all(workload, pool, ledger, start_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await ledger.all_finished.wait()
            cpu_s = time.process_time() - cpu_s
        finally:
            await pool.close()
    answers = parse(ledger, service.metadata["versions"])
    outcomes = Outcomes(
        workload=workload,
        policy=policy,
        variants=answers.variants,
        status=answers.status,
        variant=answers.variant,
        finished_s=np.array(ledger.finished_s) - start_s,
        batch_size=answers.batch_size,
        batches=None,
    )
    own = summarize_client(
        workload.arrivals_s + start_s,
        np.array(ledger.due_s),
        np.array(ledger.sent_s),
        connections=pool.most_open,
        cpu_s=cpu_s,
        is_real_time=is_real_time,
    )
    sent_s = np.array(ledger.sent_s) - start_s
    return ReplayResult(outcomes, answers.reported, own, sent_s, answers.first_failure, start_s)


async def _send_all(
    workload: Workload, pool: ConnectionPool, ledger: RequestLog, start_s: float
) -> None:
    """Return once the last request is with the pool."""
    due_s = (workload.arrivals_s + start_s).tolist()
    all_sent = asyncio.Event()
    next_number = 0

    def send_due() -> None:
        nonlocal next_number
        for number in range(next_number, min(next_number + _AT_ONCE, len(due_s))):
            now_s = time.monotonic()
            if due_s[number] > now_s:
                break
            ledger.due_s[number] = now_s
            pool.send(number, now_s)
            next_number = number + 1
        if next_number < len(due_s):
            bell.set(due_s[next_number])
        else:
            all_sent.set()

    bell = create_timer(send_due)
    try:
        bell.set(due_s[0])
        await all_sent.wait()
    finally:
        bell.close()


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Keep the garbage collector from walking, again and again, all that was there before."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

"""Applies a load to a service and records every request.

    Load ─▶ closed loop, open loop (timer) ─▶ service ─▶ LoadRecord

The client parses the status and the length of responses only. It measures its own delay and CPU
time, because both are part of what it reports about the service.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable
from contextlib import nullcontext
from typing import Final

import numpy as np
import uvloop

from loadtests.replay.frozen_heap import frozen_heap
from loadtests.replay.real_time import real_time_scheduling
from loadtests.replay.timer import create_timer
from loadtests.steady.load import DRAIN_S, Load, LoadRecord
from loadtests.steady.load_log import LoadLog
from loadtests.steady.loops import ClosedLoop, OpenLoop

PROBE_S: Final = 0.005
"""Interval of the timers whose delay is recorded, in seconds."""

_MIN_WAIT_S: Final = 0.0005
"""Minimum time between two expiries of the timer, in seconds. At high rates several requests are
sent at each, which saves the client most of its CPU time."""

_MAX_CONSECUTIVE_SENDS: Final = 16
"""Maximum number of requests sent in a row; more would delay the processing of responses."""


def run_load(load: Load, on_start: Callable[[float], None] = lambda _: None) -> LoadRecord:
    """Apply a load in a new event loop.

    `on_start` receives the time at which it starts: that of `time.monotonic()`, in seconds.

    Raises OSError if the connections that are kept cannot be opened.
    """
    scheduling = real_time_scheduling() if load.is_real_time else nullcontext()
    with frozen_heap(), scheduling:
        return uvloop.run(_run(load, on_start))


async def _run(load: Load, on_start: Callable[[float], None]) -> LoadRecord:
    log = LoadLog(load.sample_every)
    closed, opened = ClosedLoop(load, log), OpenLoop(load, log)
    delays_s = array("d")
    try:
        await closed.open()
        await opened.open()
        cpu_s = time.process_time()
        start_s = time.monotonic()
        on_start(start_s)
        closed.start()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_send_arrivals(load, opened, log, delays_s, start_s))
            probing = tasks.create_task(_measure_delays(delays_s, start_s + load.seconds))
            await probing
            closed.stop()
        ended_s = time.monotonic()
        cpu_share = (time.process_time() - cpu_s) / (ended_s - start_s)
        while log.open and time.monotonic() < ended_s + DRAIN_S:
            await asyncio.sleep(PROBE_S)
        await asyncio.sleep(PROBE_S)  # reads what arrived while this process was paused
    finally:
        await closed.close()
        await opened.close()
    return LoadRecord(
        started_s=start_s,
        due_s=np.array(log.due_s),
        ended_s=np.array(log.ended_s),
        http_status=np.array(log.http_status, np.int16),
        delays_s=np.array(delays_s),
        cpu_share=cpu_share,
        contents=log.contents,
    )


async def _send_arrivals(
    load: Load, opened: OpenLoop, log: LoadLog, delays_s: array[float], start_s: float
) -> None:
    """Send each request of the open loop at its arrival time; return at the end of the run.

    Requests that the client has not processed by then are recorded as unsent.
    """
    due_s = (load.arrivals_s[load.arrivals_s < load.seconds] + start_s).tolist()
    if not due_s:
        return
    end_s = start_s + load.seconds
    all_sent = asyncio.Event()
    next_number = 0

    def send_due() -> None:
        nonlocal next_number
        now_s = wake_s = time.monotonic()
        for number in range(next_number, min(next_number + _MAX_CONSECUTIVE_SENDS, len(due_s))):
            if due_s[number] > now_s:
                wake_s = max(due_s[number], now_s + _MIN_WAIT_S)
                break
            delays_s.append(now_s - due_s[number])
            opened.send(due_s[number], now_s)
            next_number = number + 1
        if next_number == len(due_s) or now_s >= end_s:
            all_sent.set()
        else:
            timer.set(wake_s)

    timer = create_timer(send_due)
    try:
        timer.set(due_s[0])
        await all_sent.wait()
    finally:
        timer.close()
    for late_s in due_s[next_number:]:
        log.add_unsent(late_s, end_s)


async def _measure_delays(delays_s: array[float], until_s: float) -> None:
    """Record the delay of a timer at fixed intervals; return after `until_s`."""
    is_over = asyncio.Event()
    expires_s = time.monotonic() + PROBE_S

    def expire() -> None:
        nonlocal expires_s
        now_s = time.monotonic()
        delays_s.append(now_s - expires_s)
        expires_s = now_s + PROBE_S
        if now_s < until_s:
            timer.set(expires_s)
        else:
            is_over.set()

    timer = create_timer(expire)
    try:
        timer.set(expires_s)
        await is_over.wait()
    finally:
        timer.close()

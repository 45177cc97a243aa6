"""Times the scheduler and the link around hosts that compute nothing, by batch size."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np
import uvloop

from loadtests.benchmarks.decisions import PROFILES, new_planner
from loadtests.benchmarks.request_costs import INPUTS, Part
from serving.dataplane.batching import Arrays, join
from serving.dataplane.clock import LoopClock
from serving.dataplane.executor import BatchResult, OnOutcome
from serving.dataplane.scheduler import Scheduler
from serving.link.connection import HostConnection
from serving.link.host import HostSocket
from serving.routing.policy.pareto import pareto
from serving.routing.policy.state import LaneKey
from serving.routing.slo import DEFAULT_PRIORITY

BATCHES: Final = (1, 16, 64)
"""Batch sizes that are measured."""
DEADLINE_S: Final = 1.0
"""Time allowed for each request, in seconds: no request expires."""


def batch_parts(host_address: str) -> dict[str, Part]:
    """Return the parts of the scheduler and the link, by name, for each batch size."""
    parts: dict[str, Part] = {}
    for size in BATCHES:
        parts[f"queue, decide, dispatch: {size} at a time"] = partial(
            _in_loop, partial(_schedule, size)
        )
    for size in BATCHES:
        parts[f"link, round trip: batch of {size}"] = partial(
            _in_loop, partial(_round_trips, host_address, size)
        )
    return parts


@contextmanager
def run_idle_host() -> Iterator[str]:
    """Run a host that computes nothing in a separate process; yield its address."""
    context = multiprocessing.get_context("spawn")
    parent_end, child_end = context.Pipe()
    process = context.Process(target=_serve_zeros, args=(child_end,), daemon=True)
    process.start()
    try:
        yield parent_end.recv()
    finally:
        parent_end.send(None)
        process.join()


def _in_loop(measure: Callable[[float], Coroutine[Any, Any, float]], seconds: float) -> float:
    return uvloop.run(measure(seconds))


async def _schedule(clients: int, seconds: float) -> float:
    """Submit requests from clients in a closed loop; return the microseconds per request."""
    loop = asyncio.get_running_loop()

    def run(
        variant: str, requests: Sequence[Arrays], on_outcome: OnOutcome[Sequence[Arrays]]
    ) -> None:
        loop.call_soon(on_outcome, BatchResult(requests, 0.0))

    clock = LoopClock()
    scheduler = Scheduler(new_planner(pareto, clock.time, max(BATCHES)), run, clock)
    key = LaneKey(tuple(PROFILES))
    is_over = asyncio.Event()
    count = 0

    def submit(_: object = None) -> None:
        nonlocal count
        if time.perf_counter() >= until:
            is_over.set()
            return
        count += 1
        deadline = clock.time() + DEADLINE_S
        scheduler.submit(
            INPUTS, key, size=1, deadline=deadline, priority=DEFAULT_PRIORITY, on_end=submit
        )

    start = time.perf_counter()
    until = start + seconds
    for _ in range(clients):
        submit()
    await is_over.wait()
    return (time.perf_counter() - start) / max(count, 1) * 1e6


async def _round_trips(address: str, size: int, seconds: float) -> float:
    """Send batches to the host one after the other; return the microseconds per request."""
    host = HostConnection(address, on_lost=lambda: None)
    inputs = [INPUTS] * size
    until = time.perf_counter() + seconds
    count = 0
    try:
        await host.run(join(inputs))
        start = time.perf_counter()
        while time.perf_counter() < until or not count:
            await host.run(join(inputs))
            count += 1
        return (time.perf_counter() - start) / count / size * 1e6
    finally:
        host.close()


def _serve_zeros(pipe: Connection) -> None:
    def run(inputs: Arrays) -> Arrays:
        return {"logits": np.zeros((len(inputs["input"]), 10), np.float32)}

    socket = HostSocket(run)
    pipe.send(socket.address)
    pipe.recv()
    socket.close()

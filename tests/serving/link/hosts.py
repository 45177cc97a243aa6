"""Hosts on real sockets in the process of a test, and functions for them to run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult, Outcome
from serving.link.connection import HostConnection
from serving.link.host import HostSocket
from serving.link.pool import HostPool

T = TypeVar("T")

TIMEOUT_S = 30.0
"""Time limit of a wait in a test, in seconds; below `BATCH_TIMEOUT_S`."""

Connect = Callable[..., HostConnection]


@contextmanager
def running_host(run: Callable[[Arrays], Arrays]) -> Iterator[HostSocket]:
    """Run a host within a `with`."""
    host = HostSocket(run)
    try:
        yield host
    finally:
        host.close()


def doubled(inputs: Arrays) -> Arrays:
    return {f"2 * {name}": array + array for name, array in inputs.items()}


def echo(inputs: Arrays) -> Arrays:
    return inputs


class GatedRunner:
    """Returns its inputs once the test opens the gate. Hosts call it on their own threads."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        """Released once per call."""
        self.open = threading.Event()
        self.finished = 0

    def __call__(self, inputs: Arrays) -> Arrays:
        self.entered.release()
        assert self.open.wait(TIMEOUT_S)
        self.finished += 1
        return inputs


def numbers(start: int = 0) -> dict[str, npt.NDArray[np.int64]]:
    return {"x": np.arange(start, start + 4)}


async def in_time(awaited: Awaitable[T]) -> T:
    """Return the result; raise `TimeoutError` if it takes longer than `TIMEOUT_S`."""
    return await asyncio.wait_for(awaited, TIMEOUT_S)


async def wait_entered(gate: GatedRunner) -> None:
    """Wait until a host has called the runner once more."""
    assert await asyncio.to_thread(gate.entered.acquire, timeout=TIMEOUT_S)


async def run_batch(pool: HostPool, variant: str, inputs: Arrays) -> BatchResult[Arrays]:
    """Run one batch on a host of the pool; raise its failure."""
    done: asyncio.Future[BatchResult[Arrays]] = asyncio.get_running_loop().create_future()

    def on_outcome(outcome: Outcome[Arrays]) -> None:
        if isinstance(outcome, Exception):
            done.set_exception(outcome)
        else:
            done.set_result(outcome)

    pool.send(variant, inputs, on_outcome)
    return await done

"""Hosts on real sockets, in the process of a test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from serving.dataplane.batching import Arrays
from serving.link.connection import HostConnection
from serving.link.host import HostSocket

T = TypeVar("T")

ENOUGH_S = 30.0
"""Nothing here takes so long, unless it hangs; less than what a host may take for a batch."""

Connect = Callable[..., HostConnection]


@contextmanager
def hosting(run: Callable[[Arrays], Arrays]) -> Iterator[HostSocket]:
    host = HostSocket(run)
    try:
        yield host
    finally:
        host.close()


def doubled(inputs: Arrays) -> Arrays:
    return {f"2 * {name}": array + array for name, array in inputs.items()}


def echo(inputs: Arrays) -> Arrays:
    return inputs


class Gate:
    """A host's `run` that answers when it is let; threads, because a host has its own."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.finished = 0

    def __call__(self, inputs: Arrays) -> Arrays:
        self.entered.release()
        assert self.open.wait(ENOUGH_S)
        self.finished += 1
        return inputs


def numbers(start: int = 0) -> dict[str, npt.NDArray[np.int64]]:
    return {"x": np.arange(start, start + 4)}


async def soon(awaited: Awaitable[T]) -> T:
    """What it comes to; `TimeoutError` rather than a test that hangs."""
    return await asyncio.wait_for(awaited, ENOUGH_S)


async def entered(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.acquire, timeout=ENOUGH_S)

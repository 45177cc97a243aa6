"""Lets a coroutine await what is passed to a callback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from serving.dataplane.request import OnEnd

Call = TypeVar("Call")
T = TypeVar("T")


async def ended(start: Callable[[OnEnd[T]], Call], cancel: Callable[[Call], object]) -> T:
    """Return what is passed to the callback of `start`, or raise it if it is an exception.

    If this is cancelled, it calls `cancel` with what `start` has returned. Raises what `start`
    raises.
    """
    result: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def on_end(outcome: T | Exception) -> None:
        if result.done():
            return
        if isinstance(outcome, Exception):
            result.set_exception(outcome)
        else:
            result.set_result(outcome)

    call = start(on_end)
    try:
        return await result
    except asyncio.CancelledError:
        cancel(call)
        raise

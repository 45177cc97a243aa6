"""Waits of loops that poll and can be woken."""

from __future__ import annotations

import asyncio
import contextlib


async def wait_for_wake(event: asyncio.Event, within_s: float) -> None:
    """Return once the event is set, or after this time in seconds.

    Not `asyncio.wait_for`: in Python 3.11 it can swallow a cancellation.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()

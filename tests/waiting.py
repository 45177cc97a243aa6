"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

GIVE_UP_S = 300.0


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; fail the test if it does not in good time."""
    deadline = time.monotonic() + GIVE_UP_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


async def until(condition: Callable[[], bool]) -> None:
    """The same within an event loop, which goes on meanwhile."""
    async with asyncio.timeout(GIVE_UP_S):
        while not condition():
            await asyncio.sleep(0.001)

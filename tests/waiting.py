"""Waits for conditions, in place of waits for a fixed time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

GIVE_UP_S = 300.0
"""Seconds after which a condition that does not hold fails the test."""


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; fail the test after `GIVE_UP_S`."""
    deadline = time.monotonic() + GIVE_UP_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.02)


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; fail after `GIVE_UP_S`. The event loop runs meanwhile."""
    async with asyncio.timeout(GIVE_UP_S):
        while not condition():
            await asyncio.sleep(0.001)

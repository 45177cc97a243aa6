"""Calls that block, off the event loop of the gateway."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from serving.errors import Overloaded

T = TypeVar("T")

logger = logging.getLogger(__name__)

THREADS: Final = 4
"""Threads of their own: a database that does not answer must not block other parts."""

MAX_CALLS: Final = 64
"""Maximum number of calls in progress and waiting."""


class BlockingCalls:
    """Runs functions on threads, from one event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="admin")
        self._calls = 0

    async def __call__(self, function: Callable[..., T], *args: Any, **keywords: Any) -> T:
        """Return what the function returns. Raises `Overloaded` if too many calls wait."""
        if self._calls >= MAX_CALLS:
            raise Overloaded("there are too many admin requests at once; send fewer")
        self._calls += 1
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, partial(function, *args, **keywords))
        finally:
            self._calls -= 1

    def later(self, function: Callable[..., None], *args: Any) -> None:
        """Run a function soon; log its failure. It is dropped if too many calls wait."""
        if self._calls >= MAX_CALLS:
            return
        self._calls += 1
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, partial(function, *args))
        future.add_done_callback(self._log_failure)

    def _log_failure(self, future: asyncio.Future[None]) -> None:
        self._calls -= 1
        if not future.cancelled() and (error := future.exception()) is not None:
            logger.error("a call in the background failed", exc_info=error)

    def close(self) -> None:
        """Start no more calls; do not wait for those in progress."""
        self._threads.shutdown(wait=False, cancel_futures=True)

"""Lets a test run the batches of a scheduler in a coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from serving.dataplane.executor import BatchResult, OnOutcome, Run

T = TypeVar("T")

AsyncRun: TypeAlias = Callable[[str, Sequence[T]], Awaitable[BatchResult[Sequence[T]]]]
"""Returns the result of a batch, or raises its failure."""


def from_async(run: AsyncRun[T]) -> Run[T, T]:
    """Return the `run` of a scheduler that awaits `run` in a task and passes on the outcome."""
    tasks: set[asyncio.Task[Any]] = set()

    def start(variant: str, requests: Sequence[T], on_outcome: OnOutcome[Sequence[T]]) -> None:
        async def await_outcome() -> None:
            try:
                result = await run(variant, requests)
            except Exception as error:
                on_outcome(error)
            else:
                on_outcome(result)

        task = asyncio.create_task(await_outcome())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return start

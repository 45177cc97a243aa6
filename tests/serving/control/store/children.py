"""Child processes that are forked: they need not import anything, which takes seconds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess


@contextmanager
def forked(count: int, function: Callable[[], object]) -> Iterator[list[BaseProcess]]:
    """Run a function in so many child processes, which begin at about the same time.

    In the end, wait for them. An exception of the function gives the exit code 1.
    """
    context = multiprocessing.get_context("fork")
    begin = context.Event()

    def run() -> None:
        begin.wait()
        function()

    children: list[BaseProcess] = [context.Process(target=run, daemon=True) for _ in range(count)]
    for child in children:
        child.start()
    begin.set()
    try:
        yield children
    finally:
        for child in children:
            child.join()

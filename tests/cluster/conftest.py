"""Fixtures of the tests with a real cluster. The service itself is `tests.conftest.service`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def in_background() -> Iterator[Callable[[Callable[[], None]], None]]:
    """A function that repeats a call on a new thread until the test ends. No call may fail."""
    stop = threading.Event()
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    def start(call: Callable[[], None]) -> None:
        def loop() -> None:
            try:
                while not stop.is_set():
                    call()
            except BaseException as error:
                errors.append(error)

        threads.append(threading.Thread(target=loop))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors

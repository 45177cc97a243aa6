"""What the tests with a real cluster share; the service itself is `tests.conftest.service`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def in_background() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Run something over and over on threads of its own until the test ends; it must not fail."""
    stop = threading.Event()
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    def start(work: Callable[[], None]) -> None:
        def loop() -> None:
            try:
                while not stop.is_set():
                    work()
            except BaseException as error:
                errors.append(error)

        threads.append(threading.Thread(target=loop))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors

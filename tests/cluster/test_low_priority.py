"""Work at low priority, on a thread that ends with it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.cluster.low_priority import NICENESS, run_at_low_priority


def niceness() -> int:
    """Return the niceness of the calling thread."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_only_the_function_runs_at_low_priority() -> None:
    before = niceness()
    assert run_at_low_priority(niceness) == max(before, NICENESS)
    assert niceness() == before


def test_a_lower_priority_of_the_caller_is_kept() -> None:
    def run() -> int:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS + 5)
        return run_at_low_priority(niceness)

    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(run).result() == NICENESS + 5


def test_an_error_of_the_function_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        run_at_low_priority(lambda: 1 // 0)

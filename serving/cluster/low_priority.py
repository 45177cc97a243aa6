"""Low CPU priority for the start of a host, so that the start takes no CPU from hosts that serve.

Linux has a priority for each thread. A thread may lower its own, but only a privileged process may
raise it again, and a container usually is not privileged. Work of the start therefore runs on a
thread that ends with it; the thread that serves keeps the normal priority.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

NICENESS: Final = 10
"""Niceness of a start: a tenth of the CPU of a normal thread that never sleeps.

With the lowest priority, a replacement would not start at all while the others use all CPUs.
"""


def run_at_low_priority(function: Callable[[], T]) -> T:
    """Return the result of `function`, called on a thread with low priority; raise what it raises.

    Threads that `function` starts keep the low priority. None should remain: a killed process ends,
    and closes its connections, only when all its threads have had their turn to end.
    """
    with ThreadPoolExecutor(1, "start", initializer=_lower_priority) as executor:
        return executor.submit(function).result()


def _lower_priority() -> None:
    thread = threading.get_native_id()
    niceness = os.getpriority(os.PRIO_PROCESS, thread)
    os.setpriority(os.PRIO_PROCESS, thread, max(niceness, NICENESS))

"""Real-time scheduling of the client, so that it runs before the service that it measures.

Without it, a client that shares its cores with a busy service wakes up milliseconds late, which
looks like a slower service. A client on another machine does not have this problem.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def real_time_scheduling() -> Iterator[bool]:
    """Run the calling thread with real-time priority if possible; yield whether it is.

    It requires root on Linux.
    """
    if sys.platform != "linux":
        yield False
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, policy, priority)

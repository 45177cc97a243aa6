"""A client that is served by the kernel before the service it measures, where that is allowed.

Elsewhere a client that shares its cores with a busy service is woken milliseconds late, and looks
like a slower service. A client on another machine would not be.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def real_time_scheduling() -> Iterator[bool]:
    """Run this thread with real-time priority; gives whether it may, which root may on Linux."""
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

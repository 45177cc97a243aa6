"""A load client without processes and a service, for tests of what is measured with one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import cast

import numpy as np

from loadtests.steady.client_process import LoadClient
from loadtests.steady.load import Load, LoadRecord

LATENCY_S = 0.001
PERIOD_S = 0.02
"""Interval at which each client of the closed loop sends, in seconds."""


def instant_client() -> LoadClient:
    """Return a client that records at once what it would see of a service with this latency."""
    return LoadClient(cast(Connection, _Pipe()))


class _Pipe:
    _results: Iterator[float | LoadRecord]

    def send(self, load: Load) -> None:
        started_s = time.monotonic()
        self._results = iter((started_s, _record(load, started_s)))

    def recv(self) -> float | LoadRecord:
        return next(self._results)


def _record(load: Load, started_s: float) -> LoadRecord:
    closed_s = np.repeat(np.arange(0.0, load.seconds, PERIOD_S), load.clients)
    due_s = started_s + np.sort(np.concatenate([closed_s, load.arrivals_s]))
    return LoadRecord(
        started_s=started_s,
        due_s=due_s,
        ended_s=due_s + LATENCY_S,
        http_status=np.full(len(due_s), 200, np.int16),
        delays_s=np.zeros(1),
        cpu_share=0.1,
    )

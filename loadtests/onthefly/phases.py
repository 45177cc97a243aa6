"""What happens to the requests while the variants of a service change, phase by phase."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np

from loadtests.onthefly.admin import POLL_S, Admin
from loadtests.steady.load import UNSENT, LoadRecord

IN_VAIN: Final = (422, 429, 504)
"""Statuses of requests that the service has refused or dropped because of their deadline."""

ROUTED_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True)
class Phase:
    """A change of the variants, or a time without one. Times are of `time.monotonic()`."""

    name: str
    started_s: float
    ended_s: float
    routed_s: float | None = None
    """Seconds from the submission to the first answer of the new generation."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each stage of the job."""


@dataclass(frozen=True)
class PhaseResult:
    """The requests that were to be sent during a phase."""

    phase: Phase
    requests: int
    on_time: int
    refused: int
    """Requests that were refused or dropped because of their deadline."""
    unsent: int
    """Requests for which the client found no free connection."""
    failures: Mapping[int, int]
    """Requests with any other status, by status; `LoadRecord` has those that stand for none."""

    @property
    def failed(self) -> int:
        """Number of failed requests."""
        return sum(self.failures.values())


@dataclass
class Timeline:
    """Changes the variants of a service, and keeps when."""

    admin: Admin
    path: str
    """Path for inference requests."""
    body: bytes
    """An inference request."""
    phases: list[Phase] = field(default_factory=list)

    def rest(self, name: str, seconds: float) -> None:
        """Let time pass."""
        start = time.monotonic()
        time.sleep(seconds)
        self.phases.append(Phase(name, start, time.monotonic()))

    def change(
        self, name: str, method: str, path: str, body: object = None, routed: str | None = None
    ) -> None:
        """Submit a job and wait for its end, and until its generation of `routed` answers."""
        start = time.monotonic()
        job = self.admin.run(method, path, body)
        answered_s = None
        if routed is not None:
            self._wait_until_routed(routed, job["generation"])
            answered_s = time.monotonic() - start
        end = time.monotonic()
        self.phases.append(Phase(name, start, end, answered_s, job["stage_seconds"]))

    def _wait_until_routed(self, variant: str, generation: int) -> None:
        deadline = time.monotonic() + ROUTED_TIMEOUT_S
        while self._generation(variant) != generation:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{variant}@{generation} is published, but does not answer")
            time.sleep(POLL_S)

    def _generation(self, variant: str) -> int | None:
        """Return the generation that answers a request for a variant; None if none does."""
        headers = {"x-slo-variant": variant, "content-type": "application/json"}
        request = Request(f"{self.admin.url}{self.path}", data=self.body, headers=headers)
        with suppress(HTTPError, URLError), urlopen(request, timeout=5) as response:
            explanation: dict[str, Any] = json.load(response)["parameters"]
            return int(explanation["generation"])
        return None


def summarize(phases: list[Phase], record: LoadRecord, deadline_s: float) -> list[PhaseResult]:
    """Assign each request to the phase in which it was to be sent."""
    results = []
    for phase in phases:
        during = (record.due_s >= phase.started_s) & (record.due_s < phase.ended_s)
        status, latency_s = record.http_status[during], record.latency_s[during]
        refused = int(np.isin(status, IN_VAIN).sum())
        codes = Counter(int(code) for code in status)
        known = {200, UNSENT, *IN_VAIN}
        failures = {code: count for code, count in codes.items() if code not in known}
        results.append(
            PhaseResult(
                phase,
                requests=len(status),
                on_time=int(((status == 200) & (latency_s <= deadline_s)).sum()),
                refused=refused,
                unsent=codes[UNSENT],
                failures=failures,
            )
        )
    return results


def repeat(count: int, *changes: Callable[[], object]) -> None:
    """Make changes in turn, `count` times."""
    for _ in range(count):
        for change in changes:
            change()

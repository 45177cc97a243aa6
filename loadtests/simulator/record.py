"""Records the outcome of every request and checks that there is exactly one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loadtests.simulator.machine import BatchKey
from loadtests.trials.outcomes import Batches, Outcomes, RequestStatus
from loadtests.workload.workload import SloClass, Workload


class Recorder:
    """Collects the requests of a running simulation and their outcomes."""

    def __init__(self, policy: str, variants: tuple[str, ...]) -> None:
        self._policy = policy
        self._variants = variants
        self._index_of = {name: index for index, name in enumerate(variants)}
        self._arrivals_s: list[float] = []
        self._class_of: list[int] = []
        self._status: list[int] = []
        self._variant: list[int] = []
        self._finished_s: list[float] = []
        self._batch_size: list[int] = []
        self._sent_s: dict[BatchKey, float] = {}
        self._batches: list[tuple[int, int, float, float, float]] = []

    @property
    def requests(self) -> int:
        """The number of requests that were sent."""
        return len(self._status)

    def record_arrival(self, class_: int, now: float) -> int:
        """Record that a request was sent, and return its number, counted from 0."""
        self._arrivals_s.append(now)
        self._class_of.append(class_)
        self._status.append(int(RequestStatus.LOST))
        self._variant.append(-1)
        self._finished_s.append(float("nan"))
        self._batch_size.append(0)
        return len(self._status) - 1

    def record_error(self, request: int, status: RequestStatus, now: float) -> None:
        """Record that a request ended with an error."""
        self._set_status(request, status, now)

    def record_answer(self, request: int, variant: str, batch_size: int, now: float) -> None:
        """Record that a request was answered by a variant in a batch of `batch_size` samples."""
        self._set_status(request, RequestStatus.ANSWERED, now)
        self._variant[request] = self._index_of[variant]
        self._batch_size[request] = batch_size

    def record_dispatch(self, batch: BatchKey, now: float) -> None:
        """Record that a batch was sent."""
        self._sent_s[batch] = now

    def record_batch(
        self, batch: BatchKey, variant: str, size: int, predicted_s: float, now: float
    ) -> None:
        """Record that a batch ended; `predicted_s` is the predicted quantile of its time."""
        sent_s = self._sent_s.pop(batch)
        self._batches.append((self._index_of[variant], size, sent_s, predicted_s, now - sent_s))

    def check(self) -> None:
        """Raise RuntimeError if a request has no outcome."""
        lost = self._status.count(int(RequestStatus.LOST))
        if lost:
            raise RuntimeError(f"{lost} requests have no outcome")

    def workload(self, name: str, classes: Sequence[SloClass], seconds: float) -> Workload:
        """Return the requests that were sent, within `seconds`."""
        return Workload(
            name=name,
            arrivals_s=np.array(self._arrivals_s, dtype=np.float64),
            class_of=np.array(self._class_of, dtype=np.int16),
            classes=tuple(classes),
            seconds=seconds,
        )

    def outcomes(self, workload: Workload) -> Outcomes:
        """Return the recorded outcomes; `workload` holds the requests that were sent."""
        columns = list(zip(*self._batches, strict=True)) or [(), (), (), (), ()]
        return Outcomes(
            workload=workload,
            policy=self._policy,
            variants=self._variants,
            status=np.array(self._status, dtype=np.int8),
            variant=np.array(self._variant, dtype=np.int16),
            finished_s=np.array(self._finished_s),
            batch_size=np.array(self._batch_size, dtype=np.int32),
            batches=Batches(
                variant=np.array(columns[0], dtype=np.int16),
                size=np.array(columns[1], dtype=np.int32),
                sent_s=np.array(columns[2], dtype=np.float64),
                predicted_s=np.array(columns[3], dtype=np.float64),
                took_s=np.array(columns[4], dtype=np.float64),
            ),
        )

    def _set_status(self, request: int, status: RequestStatus, now: float) -> None:
        if self._status[request] != RequestStatus.LOST:
            raise RuntimeError(f"request {request} has two outcomes")
        self._status[request] = int(status)
        self._finished_s[request] = now

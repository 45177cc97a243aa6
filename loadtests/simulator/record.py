"""Records the outcome of every request and checks that there is exactly one."""

from __future__ import annotations

import numpy as np

from loadtests.simulator.machine import BatchKey
from loadtests.trials.outcomes import Batches, Outcomes, RequestStatus
from loadtests.workload.workload import Workload
from serving.routing.step import Send


class Recorder:
    """Collects the outcomes of a running simulation."""

    def __init__(self, workload: Workload, policy: str, variants: tuple[str, ...]) -> None:
        count = len(workload)
        self._workload = workload
        self._policy = policy
        self._variants = variants
        self._index_of = {name: index for index, name in enumerate(variants)}
        self._status = [int(RequestStatus.LOST)] * count
        self._variant = [-1] * count
        self._finished_s = [float("nan")] * count
        self._batch_size = [0] * count
        self._sent_s: dict[BatchKey, float] = {}
        self._batches: list[tuple[int, int, float, float, float]] = []

    def record_error(self, request: int, status: RequestStatus, now: float) -> None:
        """Record that a request ended with an error."""
        self._set_status(request, status, now)

    def record_dispatch(self, batch: BatchKey, now: float) -> None:
        """Record that a batch was sent."""
        self._sent_s[batch] = now

    def record_answer(self, batch: BatchKey, send: Send[int], now: float) -> None:
        """Record that a batch was answered."""
        variant, sent_s = self._index_of[send.variant], self._sent_s.pop(batch)
        self._batches.append((variant, send.size, sent_s, send.predicted_s, now - sent_s))
        for request in send.batch:
            self._set_status(request.payload, RequestStatus.ANSWERED, now)
            self._variant[request.payload] = variant
            self._batch_size[request.payload] = send.size

    def check(self) -> None:
        """Raise RuntimeError if a request has no outcome."""
        lost = self._status.count(int(RequestStatus.LOST))
        if lost:
            raise RuntimeError(f"{lost} requests have no outcome")

    def outcomes(self) -> Outcomes:
        """Return the recorded outcomes."""
        columns = list(zip(*self._batches, strict=True)) or [(), (), (), (), ()]
        return Outcomes(
            workload=self._workload,
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

"""Runs a batch of requests as one call to a host.

    Scheduler ─▶ BatchExecutor: join ─▶ host (over the link) ─▶ split, report ─▶ Scheduler

The scheduler depends only on the callable type `Run`, so a test can replace executor and hosts by
a function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from serving.dataplane.batching import Arrays, join, split
from serving.dataplane.request import Input, Output
from serving.telemetry.event import Executed
from serving.telemetry.telemetry import Telemetry

Outputs_co = TypeVar("Outputs_co", covariant=True)
T = TypeVar("T")


class HostLost(Exception):
    """The host went away or stopped answering while it held a batch."""


@dataclass(frozen=True, slots=True)
class BatchResult(Generic[Outputs_co]):
    """The outputs of a batch and its timings in seconds.

    `outputs` are the joined arrays of all requests, or one item per request after the split.
    """

    outputs: Outputs_co
    compute_s: float
    """Time that the host computed."""
    input_s: float = 0.0
    """Time that joining the requests took."""


Outcome: TypeAlias = BatchResult[T] | Exception
"""What becomes of a batch: its result, or the exception with which it failed."""

OnOutcome: TypeAlias = Callable[[Outcome[T]], None]
"""Is called once with the outcome of a batch."""

Run: TypeAlias = Callable[[str, Sequence[Input], OnOutcome[Sequence[Output]]], None]
"""Runs the inputs of several requests as one batch on the named variant.

The callback is never called before `Run` returns. A `HostLost`, raised or passed to the callback,
means that it may help to send the batch to another host.
"""

SendToHost: TypeAlias = Callable[[str, Arrays, OnOutcome[Arrays]], None]
"""Sends joined inputs to a host of the named variant; same conditions as `Run`."""


class BatchExecutor:
    """Joins requests into a batch, runs it on a host, and splits the outputs."""

    def __init__(
        self, send_to_host: SendToHost, telemetry: Telemetry, now: Callable[[], float]
    ) -> None:
        self._send_to_host = send_to_host
        self._telemetry = telemetry
        self._now = now

    def run(
        self,
        variant: str,
        requests: Sequence[Arrays],
        on_outcome: OnOutcome[Sequence[Arrays]],
    ) -> None:
        """Run requests as one batch; its result has the outputs of each request, in order.

        The outcome is a `ValueError` if the outputs do not have one row per sample. Raises as
        `SendToHost` does.
        """
        start = self._now()
        sizes = [len(next(iter(request.values()))) for request in requests]
        batch = join(requests)
        joined = self._now()

        def on_host_outcome(outcome: Outcome[Arrays]) -> None:
            if isinstance(outcome, Exception):
                on_outcome(outcome)
                return
            try:
                outputs = split(outcome.outputs, sizes)
            except ValueError as error:
                on_outcome(error)
                return
            input_s, compute_s = joined - start, outcome.compute_s
            self._telemetry.executed(
                Executed(
                    variant,
                    samples=sum(sizes),
                    input_s=input_s,
                    compute_s=compute_s,
                    output_s=max(0.0, self._now() - joined - compute_s),
                )
            )
            on_outcome(BatchResult(outputs, compute_s, input_s))

        self._send_to_host(variant, batch, on_host_outcome)

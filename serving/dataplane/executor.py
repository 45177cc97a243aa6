"""Runs a batch of requests as one call to a host.

    Scheduler ─▶ BatchExecutor: join ─▶ host (over the link) ─▶ split, report ─▶ Scheduler

The scheduler depends only on the callable type `Run`, so a test can replace executor and hosts by
a function.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from serving.dataplane.batching import Arrays, join, split
from serving.dataplane.request import Input, Output
from serving.telemetry.event import Executed
from serving.telemetry.telemetry import Telemetry

Outputs_co = TypeVar("Outputs_co", covariant=True)


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


Run: TypeAlias = Callable[[str, Sequence[Input]], Awaitable[BatchResult[Sequence[Output]]]]
"""Runs the inputs of several requests as one batch on the named variant.

Raises `HostLost` if it may help to send the batch to another host.
"""

RunOnHost: TypeAlias = Callable[[str, Arrays], Awaitable[BatchResult[Arrays]]]
"""Runs joined inputs on a host of the named variant; raises `HostLost` if the host is gone."""


class BatchExecutor:
    """Joins requests into a batch, runs it on a host, and splits the outputs."""

    def __init__(
        self, run_on_host: RunOnHost, telemetry: Telemetry, now: Callable[[], float]
    ) -> None:
        self._run_on_host = run_on_host
        self._telemetry = telemetry
        self._now = now

    async def run(self, variant: str, requests: Sequence[Arrays]) -> BatchResult[Sequence[Arrays]]:
        """Return the outputs of each request, in order, and report the batch as executed.

        Raises `ValueError` if the outputs do not have one row per sample, and as `RunOnHost` does.
        """
        start = self._now()
        sizes = [len(next(iter(request.values()))) for request in requests]
        batch = join(requests)
        joined = self._now()
        result = await self._run_on_host(variant, batch)
        outputs = split(result.outputs, sizes)
        input_s, compute_s = joined - start, result.compute_s
        self._telemetry.executed(
            Executed(
                variant,
                samples=sum(sizes),
                input_s=input_s,
                compute_s=compute_s,
                output_s=max(0.0, self._now() - joined - compute_s),
            )
        )
        return BatchResult(outputs, compute_s, input_s)

"""What every variant has done since the gateway started, as V2's statistics extension counts it.

A request counts under the variant that answered it; one that failed under the variant that it
would have got first. Sums only: quantiles are the business of the metrics.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from serving.telemetry.event import Answered, Counted, Executed


@dataclass(slots=True)
class Duration:
    """So many events, and the seconds that they took together."""

    count: int = 0
    total_s: float = 0.0

    def add(self, took_s: float) -> None:
        """Count one event more."""
        self.count += 1
        self.total_s += took_s


@dataclass(slots=True)
class Stages:
    """From dispatch to answer: joining the batch, computing it, and everything else."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)

    def add(self, event: Answered | Executed) -> None:
        """Count the stages of one request, or of one batch."""
        self.compute_input.add(event.input_s)
        self.compute_infer.add(event.compute_s)
        self.compute_output.add(event.output_s)


@dataclass(slots=True)
class VariantStatistics:
    """The counts of one variant: by request, by batch, and by size of batch."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    stages: Stages = field(default_factory=Stages)
    samples: int = 0
    executions: int = 0
    last_at_s: float = 0.0
    """Unix time of the last batch; 0 if there was none."""
    by_size: defaultdict[int, Stages] = field(default_factory=lambda: defaultdict(Stages))
    resident_bytes: int = 0
    gpu_memory_bytes: int | None = None


class Statistics:
    """The statistics of one gateway replica."""

    def __init__(
        self, variants: Iterable[str], wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.of = {variant: VariantStatistics() for variant in variants}
        self._wall_clock = wall_clock

    def answered(self, event: Answered) -> None:
        """Count one answer."""
        own = self.of[event.variant]
        own.success.add(event.took_s)
        own.queue.add(event.queue_s)
        own.stages.add(event)

    def failed(self, variant: str, took_s: float) -> None:
        """Count one request that this variant would have answered first."""
        self.of[variant].fail.add(took_s)

    def executed(self, event: Executed) -> None:
        """Count one batch."""
        own = self.of[event.variant]
        own.samples += event.samples
        own.executions += 1
        own.last_at_s = self._wall_clock()
        own.by_size[event.samples].add(event)

    def counted(self, event: Counted) -> None:
        """Take note of the memory of a variant's hosts."""
        own = self.of[event.variant]
        own.resident_bytes = event.resident_bytes
        own.gpu_memory_bytes = event.gpu_memory_bytes

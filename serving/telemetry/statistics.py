"""Counts and total times of every generation that is served, for V2's statistics.

They begin when the generation is published on this gateway, and end when another takes its place.
Variants are given by their routing keys. A request counts for the variant that answered it. A
failed request counts for the variant that it preferred. Events of a generation that is not served
any more are ignored. There are sums only; the metrics provide quantiles.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from serving.telemetry.event import Answered, Executed, HostUsage


@dataclass(slots=True)
class Duration:
    """A number of events, and their total time in seconds."""

    count: int = 0
    total_s: float = 0.0

    def add(self, took_s: float) -> None:
        """Count one event."""
        self.count += 1
        self.total_s += took_s


@dataclass(slots=True)
class Stages:
    """The times from dispatch to answer: joining the batch, computing it, and the rest."""

    count: int = 0
    input_s: float = 0.0
    compute_s: float = 0.0
    output_s: float = 0.0

    def add(self, event: Answered | Executed) -> None:
        """Count the stages of one request or of one batch."""
        self.count += 1
        self.input_s += event.input_s
        self.compute_s += event.compute_s
        self.output_s += event.output_s

    @property
    def compute_input(self) -> Duration:
        """Joining the batch."""
        return Duration(self.count, self.input_s)

    @property
    def compute_infer(self) -> Duration:
        """Computing the batch."""
        return Duration(self.count, self.compute_s)

    @property
    def compute_output(self) -> Duration:
        """The rest."""
        return Duration(self.count, self.output_s)


@dataclass(slots=True)
class VariantStatistics:
    """The counts of one variant: by request, by batch, and by batch size."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    stages: Stages = field(default_factory=Stages)
    samples: int = 0
    executions: int = 0
    last_at_s: float = 0.0
    """Unix time of the last batch, in seconds; 0 if there was none."""
    by_size: defaultdict[int, Stages] = field(default_factory=lambda: defaultdict(Stages))
    resident_bytes: int = 0
    gpu_memory_bytes: int | None = None
    provider: str | None = None
    """What executes the variant, such as `CUDAExecutionProvider`; None without hosts."""


class Statistics:
    """The statistics of one gateway replica."""

    def __init__(
        self, variants: Iterable[str] = (), wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.by_variant: dict[str, VariantStatistics] = {}
        self._wall_clock = wall_clock
        self.serve(variants)

    def serve(self, variants: Iterable[str]) -> None:
        """Count for these variants from now on, and discard the counts of all others."""
        counts = self.by_variant
        self.by_variant = {name: counts.get(name) or VariantStatistics() for name in variants}

    def answered(self, event: Answered) -> None:
        """Count an answer."""
        counts = self.by_variant.get(event.variant)
        if counts is None:
            return
        counts.success.add(event.took_s)
        counts.queue.add(event.queue_s)
        counts.stages.add(event)

    def failed(self, variant: str, took_s: float) -> None:
        """Count a failed request that preferred this variant."""
        counts = self.by_variant.get(variant)
        if counts is not None:
            counts.fail.add(took_s)

    def executed(self, event: Executed) -> None:
        """Count a batch."""
        counts = self.by_variant.get(event.variant)
        if counts is None:
            return
        counts.samples += event.samples
        counts.executions += 1
        counts.last_at_s = self._wall_clock()
        counts.by_size[event.samples].add(event)

    def host_usage(self, event: HostUsage) -> None:
        """Record the memory of a variant's hosts."""
        counts = self.by_variant.get(event.variant)
        if counts is not None:
            counts.resident_bytes = event.resident_bytes
            counts.gpu_memory_bytes = event.gpu_memory_bytes
            counts.provider = event.provider

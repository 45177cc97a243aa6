"""A report card with a readable repr, for notebooks."""

from __future__ import annotations

from collections.abc import Iterator

from variants.catalog.catalog import BatchLatency, ReportCard
from variants.catalog.comparison import accuracy_verdict, speed_verdict
from variants.catalog.recipe import DENSE
from variants.report.text import REFERENCE, interval, milliseconds, size, size_unit


class VariantReport(ReportCard):
    """The report card of a variant on one kind of hardware. Its repr is a table."""

    variant: str

    def __repr__(self) -> str:
        labels = list(self._lines())
        width = max(len(label) for label, _ in labels)
        lines = (f"  {label:{width}}  {value}" for label, value in labels)
        return "\n".join((f"{self.variant} on {self.hardware.key}", *lines))

    __str__ = __repr__

    def _lines(self) -> Iterator[tuple[str, str]]:
        is_dense = self.variant == DENSE
        verdict = REFERENCE if is_dense else accuracy_verdict(self.accuracy_difference)
        difference = interval(self.accuracy_difference, "{:+.2f}", scale=100)
        yield "accuracy, %", interval(self.accuracy, "{:.2f}", scale=100)
        yield "against dense, points", f"{difference}, {verdict}"
        yield "agreement with dense, %", interval(self.agreement, "{:.2f}", scale=100)
        for latency in self.latencies:
            yield f"p50 at batch {latency.batch_size}, ms", self._latency(latency)
        for label, size_bytes in (
            ("weights", self.weight_bytes),
            ("files that are served", self.served_bytes),
            ("resident memory", self.resident_bytes),
        ):
            unit = size_unit((size_bytes,))
            yield f"{label}, {unit}", size(size_bytes, unit)
        yield "load time, ms", milliseconds(self.load.median_s)
        if self.timing is not None:
            yield "latencies timed", self.timing.describe()

    def _latency(self, latency: BatchLatency) -> str:
        median = milliseconds(latency.p50_s)
        if self.variant == DENSE and latency.speedup.low == latency.speedup.high:
            return f"{median}, {REFERENCE}"
        speedup = interval(latency.speedup, "{:.2f}")
        return f"{median}, {speedup} times dense's speed, {speed_verdict(latency.speedup)}"

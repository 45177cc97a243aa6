"""The results of a load test by SLO class.

    ClientResult per request ─▶ ClassSummary per class ─▶ LoadReport ─▶ table, JSON

The on-time ratio is over all requests, including refused ones. The mean accuracy, as the responses
report it, and the latency, as the client measures it, are over successful responses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import numpy as np
from pydantic import Field
from rich import box
from rich.table import Table

from loadtests.closed_loop.classes import ACCURACY_HEADER, LATENCY_HEADER, Slos
from variants.catalog.record import Record

NO_RESPONSE: Final = 0
OK: Final = 200
REFUSED: Final = (422, 429, 504)
"""HTTP statuses of requests whose SLO the service cannot meet; they are not failures."""


class ClientResult(NamedTuple):
    """The result of one request at the client; `status` is `NO_RESPONSE` if there was none."""

    status: int
    latency_s: float
    variant: str = ""
    accuracy: float = 0.0
    is_on_time: bool = False


class ClassSummary(Record):
    """Counts and means over all requests of one class."""

    slo: Mapping[str, float]
    """The SLO headers of the requests."""
    requests: int = Field(ge=0)
    answered: int = Field(ge=0)
    refused: Mapping[int, int]
    """Requests by status, of the statuses in `REFUSED`."""
    failed: Mapping[int, int]
    """Requests by status, of all other statuses, `NO_RESPONSE` included."""
    on_time_ratio: float
    """Share of all requests that were answered by their deadline."""
    mean_accuracy: float | None
    variant_ratios: Mapping[str, float]
    """Share of each variant in the successful responses."""
    latency_s: Mapping[str, float]
    """p50, p95 and p99 of the successful responses; empty if there are none."""


class LoadReport(Record):
    """The report of one load test; `generator_cpu_ratio` is the CPU use of the client, in cores."""

    url: str
    model: str
    users: int
    elapsed_s: float
    generator_cpu_ratio: float
    classes: Mapping[str, ClassSummary]

    @property
    def requests(self) -> int:
        """The number of requests."""
        return sum(summary.requests for summary in self.classes.values())

    @property
    def failures(self) -> int:
        """The number of requests without a response or with an unexpected status."""
        return sum(sum(summary.failed.values()) for summary in self.classes.values())


def summarize(slo: Mapping[str, float], results: Iterable[ClientResult]) -> ClassSummary:
    """Return the summary of the requests of one class."""
    results = list(results)
    statuses = Counter(result.status for result in results)
    answered = [result for result in results if result.status == OK]
    variants = Counter(result.variant for result in answered)
    latencies = [result.latency_s for result in answered]
    return ClassSummary(
        slo=slo,
        requests=len(results),
        answered=len(answered),
        refused={status: statuses[status] for status in REFUSED if statuses[status]},
        failed={s: count for s, count in sorted(statuses.items()) if s not in (OK, *REFUSED)},
        on_time_ratio=sum(result.is_on_time for result in answered) / max(1, len(results)),
        mean_accuracy=float(np.mean([r.accuracy for r in answered])) if answered else None,
        variant_ratios={name: n / len(answered) for name, n in variants.most_common()},
        latency_s={
            f"p{percent}": float(np.percentile(latencies, percent))
            for percent in (50, 95, 99)
            if latencies
        },
    )


def summarize_all(
    slos: Slos, results: Mapping[str, Iterable[ClientResult]]
) -> dict[str, ClassSummary]:
    """Return the summary of every class, in order, including classes without requests."""
    return {name: summarize(slo, results.get(name, ())) for name, slo in slos.items()}


def render_table(report: LoadReport) -> Table:
    """Return the report as a table; it fits 80 columns unless variant names are long."""
    table = Table(
        title=f"{report.model}: {report.requests} requests in {report.elapsed_s:.1f} s, "
        f"closed loop, {report.users} users",
        caption=f"The load generator used {report.generator_cpu_ratio:.0%} of a core. "
        "Unsuccessful requests are listed by HTTP status, failures in red. "
        "A p99 of fewer than 1,000 responses is not reliable.",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("class", no_wrap=True)
    for name in ("requests", "on time", "accuracy"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("variants")
    table.add_column("ms", justify="right", no_wrap=True)
    for name, summary in report.classes.items():
        accuracy = summary.mean_accuracy
        slo = (_SLO_FORMATS[header].format(value) for header, value in summary.slo.items())
        refused = (f"{count} x {status}" for status, count in summary.refused.items())
        failed = (
            f"[red]{n} x {status or 'no response'}[/]" for status, n in summary.failed.items()
        )
        shares = (f"{ratio:.0%} {variant}" for variant, ratio in summary.variant_ratios.items())
        latencies = (f"{quantile} {s * 1e3:.2f}" for quantile, s in summary.latency_s.items())
        table.add_row(
            "\n".join((f"[bold]{name}[/]", *slo)),
            "\n".join((str(summary.requests), *refused, *failed)),
            f"{summary.on_time_ratio:.1%}" if summary.requests else "-",
            "-" if accuracy is None else f"{accuracy:.4f}",
            "\n".join(shares) or "-",
            "\n".join(latencies) or "-",
            end_section=True,
        )
    return table


_SLO_FORMATS: Final = {LATENCY_HEADER: "in {:g} ms", ACCURACY_HEADER: "at least {:.4f}"}

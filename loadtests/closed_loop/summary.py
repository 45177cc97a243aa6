"""What a load test saw, class by class: every request counts, answered or not.

    Answer, one per request ─▶ Summary per class ─▶ Report ─▶ table, JSON

On time counts over all requests, refused ones too. Accuracy is the mean over what was answered, as
the answers tell. Latency is what the client saw, over what was answered.
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

NO_ANSWER: Final = 0
OK: Final = 200
REFUSED: Final = (422, 429, 504)
"""The service's answers to what it cannot do in time: part of its job, and no failures."""


class RequestResult(NamedTuple):
    """One request as its client saw it; status `NO_ANSWER` where nothing came back."""

    status: int
    latency_s: float
    variant: str = ""
    accuracy: float = 0.0
    is_on_time: bool = False


class ClassSummary(Record):
    """All requests of one class."""

    slo: Mapping[str, float]
    """The SLO headers they were sent with."""
    requests: int = Field(ge=0)
    answered: int = Field(ge=0)
    refused: Mapping[int, int]
    """By status: those of `REFUSED`."""
    failed: Mapping[int, int]
    """By status: all others, and `NO_ANSWER`."""
    on_time_ratio: float
    """Answered by their deadline, of all requests."""
    mean_accuracy: float | None
    variant_ratios: Mapping[str, float]
    """The share of each variant in what was answered."""
    latency_s: Mapping[str, float]
    """p50, p95, p99; empty if nothing was answered."""


class LoadReport(Record):
    """One load test. `generator_cpu_ratio` is what of one core the load generator itself took."""

    url: str
    model: str
    users: int
    elapsed_s: float
    generator_cpu_ratio: float
    classes: Mapping[str, ClassSummary]

    @property
    def requests(self) -> int:
        """How many requests there were in all."""
        return sum(summary.requests for summary in self.classes.values())

    @property
    def failures(self) -> int:
        """How many requests got no answer, or one that no request of ours should get."""
        return sum(sum(summary.failed.values()) for summary in self.classes.values())


def summarize(slo: Mapping[str, float], answers: Iterable[RequestResult]) -> ClassSummary:
    """Sum up the requests of one class."""
    answers = list(answers)
    statuses = Counter(answer.status for answer in answers)
    answered = [answer for answer in answers if answer.status == OK]
    variants = Counter(answer.variant for answer in answered)
    latencies = [answer.latency_s for answer in answered]
    return ClassSummary(
        slo=slo,
        requests=len(answers),
        answered=len(answered),
        refused={status: statuses[status] for status in REFUSED if statuses[status]},
        failed={s: count for s, count in sorted(statuses.items()) if s not in (OK, *REFUSED)},
        on_time_ratio=sum(answer.is_on_time for answer in answered) / max(1, len(answers)),
        mean_accuracy=float(np.mean([a.accuracy for a in answered])) if answered else None,
        variant_ratios={name: n / len(answered) for name, n in variants.most_common()},
        latency_s={
            f"p{percent}": float(np.percentile(latencies, percent))
            for percent in (50, 95, 99)
            if latencies
        },
    )


def summarize_all(
    slos: Slos, answers: Mapping[str, Iterable[RequestResult]]
) -> dict[str, ClassSummary]:
    """Sum up every class, in order, also one that sent nothing."""
    return {name: summarize(slo, answers.get(name, ())) for name, slo in slos.items()}


def render_table(report: LoadReport) -> Table:
    """Show a load test as one table, of 80 columns where the variants' names allow."""
    table = Table(
        title=f"{report.model}: {report.requests} requests in {report.elapsed_s:.1f} s, "
        f"closed loop, {report.users} users",
        caption=f"The load generator took {report.generator_cpu_ratio:.0%} of a core. "
        "Requests not answered are listed by status, failures in red. "
        "A p99 of fewer than 1,000 answers is noise.",
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
        asked = (_ASKED[header].format(value) for header, value in summary.slo.items())
        refused = (f"{count} x {status}" for status, count in summary.refused.items())
        failed = (f"[red]{n} x {status or 'nothing'}[/]" for status, n in summary.failed.items())
        shares = (f"{ratio:.0%} {variant}" for variant, ratio in summary.variant_ratios.items())
        latencies = (f"{quantile} {s * 1e3:.2f}" for quantile, s in summary.latency_s.items())
        table.add_row(
            "\n".join((f"[bold]{name}[/]", *asked)),
            "\n".join((str(summary.requests), *refused, *failed)),
            f"{summary.on_time_ratio:.1%}" if summary.requests else "-",
            "-" if accuracy is None else f"{accuracy:.4f}",
            "\n".join(shares) or "-",
            "\n".join(latencies) or "-",
            end_section=True,
        )
    return table


_ASKED: Final = {LATENCY_HEADER: "in {:g} ms", ACCURACY_HEADER: "from {:.4f}"}

from __future__ import annotations

import io

import pytest
from rich.console import Console

from loadtests.closed_loop.summary import (
    NO_RESPONSE,
    ClassSummary,
    ClientResult,
    LoadReport,
    render_table,
    summarize,
)

RESULTS = [
    ClientResult(200, 0.001, "dense", 0.9, is_on_time=True),
    ClientResult(200, 0.003, "dense", 0.9, is_on_time=False),
    ClientResult(200, 0.005, "int8", 0.8, is_on_time=True),
    ClientResult(200, 0.007, "dense", 0.9, is_on_time=True),
    ClientResult(429, 0.5),
    ClientResult(504, 0.5),
    ClientResult(504, 0.5),
    ClientResult(422, 0.5),
    ClientResult(500, 0.5),
    ClientResult(NO_RESPONSE, 30.0),
]


def report(**classes: ClassSummary) -> LoadReport:
    return LoadReport(
        url="http://there",
        model="shirts",
        users=4,
        elapsed_s=2.0,
        generator_cpu_ratio=0.31,
        classes=classes,
    )


def render(load_report: LoadReport) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(render_table(load_report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_on_time_ratio_is_over_all_requests() -> None:
    assert summarize({}, RESULTS).on_time_ratio == pytest.approx(3 / 10)


def test_refusals_and_failures_are_counted_separately_by_status() -> None:
    summary = summarize({}, RESULTS)
    assert summary.requests == 10
    assert summary.answered == 4
    assert summary.refused == {422: 1, 429: 1, 504: 2}
    assert summary.failed == {NO_RESPONSE: 1, 500: 1}
    assert report(one=summary, two=summary).failures == 4
    assert report(one=summary, two=summary).requests == 20


@pytest.mark.parametrize("status", [NO_RESPONSE, 400, 404, 500, 503])
def test_every_other_status_is_a_failure(status: int) -> None:
    assert summarize({}, [ClientResult(status, 0.1)]).failed == {status: 1}


def test_accuracy_shares_and_latency_are_over_successful_responses() -> None:
    summary = summarize({}, RESULTS)
    assert summary.mean_accuracy == pytest.approx((0.9 * 3 + 0.8) / 4)
    assert summary.variant_ratios == {"dense": 0.75, "int8": 0.25}
    assert summary.latency_s["p50"] == pytest.approx(0.004)
    assert summary.latency_s["p99"] == pytest.approx(0.00694)


def test_a_class_without_responses_has_a_row_without_numbers() -> None:
    summary = summarize({"x-slo-latency-ms": 0.5}, [ClientResult(422, 0.1)] * 3)
    assert summary.mean_accuracy is None
    assert summary.latency_s == {}
    assert summary.on_time_ratio == 0.0
    row, below = render(report(hasty=summary)).partition("hasty")[2].splitlines()[:2]
    assert row.split() == ["3", "0.0%", "-", "-", "-"]
    assert below.split() == ["in", "0.5", "ms", "3", "x", "422"]
    assert summarize({}, []).on_time_ratio == 0.0


def test_the_table_has_the_slo_and_the_results_of_every_class() -> None:
    slo = {"x-slo-latency-ms": 12.5, "x-slo-min-accuracy": 0.88}
    table = render(report(balanced=summarize(slo, RESULTS), none=summarize({}, [])))
    for expected in (
        "10 requests in 2.0 s, closed loop, 4 users",
        "31% of a core",
        "in 12.5 ms",
        "at least 0.8800",
        "30.0%",
        "1 x 429",
        "1 x no response",
        "0.8750",
        "25% int8",
        "p50 4.00",
    ):
        assert expected in table


def test_a_report_survives_a_round_trip_through_json() -> None:
    original = report(one=summarize({"x-slo-latency-ms": 1.0}, RESULTS))
    assert LoadReport.model_validate_json(original.model_dump_json()) == original

"""The load test and the throughput benchmark against a real service."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from loadtests.benchmarks.closed_loops import http_scenario, measure
from loadtests.benchmarks.throughput import BARE_LISTENER, PINNED, scenarios
from loadtests.closed_loop.classes import CLASSES
from loadtests.closed_loop.locust_run import run_load_test
from loadtests.closed_loop.summary import LoadReport
from tests.service import RunningService

pytestmark = pytest.mark.cluster


def test_every_slo_class_is_answered_and_reported(service: RunningService, tmp_path: Path) -> None:
    output = io.StringIO()
    path = tmp_path / "summary.json"
    report = run_load_test(
        service.url, users=4, seconds=3, json_path=path, console=Console(file=output, width=80)
    )
    assert tuple(report.classes) == CLASSES
    assert report.model == service.catalog.model.name
    assert report.failures == 0
    for summary in report.classes.values():
        # On a busy machine every strict deadline may be refused, which is also an answer.
        assert summary.requests > 0
        assert sum(summary.variant_ratios.values()) == pytest.approx(float(summary.answered > 0))
        assert set(summary.variant_ratios) <= set(service.catalog.variants)
        assert summary.requests == summary.answered + sum(summary.refused.values())
    best = max(v.report_cards[0].accuracy.value for v in service.catalog.variants.values())
    if report.classes["strict-accuracy"].answered:
        assert report.classes["strict-accuracy"].mean_accuracy == pytest.approx(best)
    assert report.classes["none"].on_time_ratio == 1.0
    assert all(name in output.getvalue() for name in CLASSES)
    assert LoadReport.model_validate_json(path.read_text()) == report


def test_every_scenario_of_the_throughput_benchmark_is_answered(service: RunningService) -> None:
    bare, *served = scenarios(service.port, bare_listener_port=0)
    assert bare.name == BARE_LISTENER
    assert PINNED in [scenario.name for scenario in served]
    points = measure(served, clients=[1, 8], rounds=1, seconds=0.2)
    assert len(points) == 2 * len(served) == 8
    assert all(point.requests_per_s > 0 for point in points.values())
    broken = http_scenario("no such path", service.port, "/v2/x/infer", b"", {})
    with pytest.raises(RuntimeError, match="404"):
        measure([broken], clients=[1], rounds=1, seconds=0.01)

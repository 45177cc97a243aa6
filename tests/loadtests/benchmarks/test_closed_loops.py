from __future__ import annotations

import pytest

from loadtests.benchmarks.bare_listener import run_bare_listener
from loadtests.benchmarks.closed_loops import (
    Scenario,
    ThroughputPoint,
    http_scenario,
    measure,
    median_point,
)
from loadtests.benchmarks.throughput import throughput_grid
from loadtests.client.http import LoadResult
from tests.loadtests.server import ok, tiny_server


def test_the_median_point_has_the_median_of_each_field() -> None:
    points = [
        ThroughputPoint(100, 3.0, 9.0),
        ThroughputPoint(300, 1.0, 7.0),
        ThroughputPoint(200, 2.0, 99.0),
    ]
    assert median_point(points) == ThroughputPoint(200, 2.0, 9.0)


def test_scenarios_alternate_in_every_round() -> None:
    order: list[str] = []

    def answer(number: int, head: bytes) -> bytes:
        if number == 0:
            order.append(head.split()[1].decode())
        return ok()

    with tiny_server(answer) as port:
        scenarios = [http_scenario(path, port, path, b"", {}) for path in ("/a", "/b")]
        points = measure(scenarios, clients=[1], rounds=3, seconds=0.01)
    assert order == ["/a", "/b"] * 3
    assert [(scenario.name, count) for scenario, count in points] == [("/a", 1), ("/b", 1)]


def test_a_failed_request_fails_the_benchmark() -> None:
    with tiny_server(lambda number, head: ok(b"broken", 500)) as port:
        scenario = http_scenario("broken server", port, "/", b"", {})
        with pytest.raises(RuntimeError, match=r"broken server: \d+ requests failed.*broken"):
            measure([scenario], clients=[1], rounds=1, seconds=0.01)


def test_a_run_without_responses_fails_the_benchmark() -> None:
    scenario = Scenario("silent server", 1, 0, lambda clients, seconds: LoadResult(elapsed_s=1.0))
    with pytest.raises(RuntimeError, match="silent server: 0 requests failed"):
        measure([scenario], clients=[1], rounds=1, seconds=0.01)


def test_every_point_is_shown_with_its_ratio_to_the_pinned_variant() -> None:
    pinned, routed = (
        http_scenario(name, 80, "/", b"", {}) for name in ("pinned, no SLO", "routed")
    )
    points = {
        (pinned, 16): ThroughputPoint(2000, 1.0, 2.0),
        (routed, 16): ThroughputPoint(1500, 1.25, 2.5),
    }
    grid = throughput_grid(points, "on this machine")
    assert grid.rows[1] == ("routed", "16", "1,500", "1.25", "2.50", "0.75")


def test_the_bare_listener_answers_inside_its_block() -> None:
    with run_bare_listener() as (_, port):
        scenario = http_scenario("bare listener", port, "/", b"x" * 3136, {})
        points = measure([scenario], clients=[2], rounds=1, seconds=0.1)
    assert points[scenario, 2].requests_per_s > 0

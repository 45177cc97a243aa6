from __future__ import annotations

import pytest

from loadtests.benchmarks import costs
from loadtests.benchmarks import listener_alone as alone
from loadtests.benchmarks.decisions import SLOS, Simulation
from loadtests.benchmarks.throughput import Setup, ThroughputPoint, measure, middle, throughput_grid
from loadtests.client.http import build_post_request
from loadtests.trials.grid import Grid
from serving.routing.policy.pareto import pareto
from serving.routing.policy.state import Decision, RouterState
from tests.loadtests.server import ok, tiny_server


def test_the_middle_is_the_median_of_each_number() -> None:
    points = [
        ThroughputPoint(100, 3.0, 9.0),
        ThroughputPoint(300, 1.0, 7.0),
        ThroughputPoint(200, 2.0, 99.0),
    ]
    assert middle(points) == ThroughputPoint(200, 2.0, 9.0)


def test_set_ups_take_turns_in_every_round() -> None:
    order: list[str] = []

    def answer(number: int, head: bytes) -> bytes:
        if number == 0:
            order.append(head.split()[1].decode())
        return ok()

    with tiny_server(answer) as port:
        setups = [Setup(name, port, build_post_request(name, b"", {})) for name in ("/a", "/b")]
        points = measure(setups, clients=[1], rounds=3, seconds=0.01)
    assert order == ["/a", "/b"] * 3
    assert points.keys() == {("/a", 1), ("/b", 1)}


def test_a_failed_request_makes_the_measurement_void() -> None:
    with tiny_server(lambda number, head: ok(b"broken", 500)) as port:
        setup = Setup("it", port, build_post_request("/", b"", {}))
        with pytest.raises(RuntimeError, match=r"it: \d+ requests failed.*broken"):
            measure([setup], clients=[1], rounds=1, seconds=0.01)


def test_every_point_is_shown_with_its_ratio_to_the_pinned_variant() -> None:
    points = {
        ("pinned, no SLO", 16): ThroughputPoint(2000, 1.0, 2.0),
        ("routed", 16): ThroughputPoint(1500, 1.25, 2.5),
    }
    grid = throughput_grid(points, "on this machine")
    assert grid.rows[1] == ("routed", "16", "1,500", "1.25", "2.50", "0.75")


def test_a_grid_is_markdown() -> None:
    grid = Grid("Speed", ("what", "ms"), [("a", "1"), ("b", "2")], "noisy")
    assert grid.to_markdown() == (
        "**Speed**\n\n| what | ms |\n| --- | ---: |\n| a | 1 |\n| b | 2 |\n\nnoisy"
    )


def test_uvicorn_alone_answers_until_it_is_let_go() -> None:
    with alone.running() as port:
        points = measure(
            [Setup("alone", port, build_post_request("/", b"x" * 3136, {}))],
            clients=[2],
            rounds=1,
            seconds=0.1,
        )
    assert points["alone", 2].requests_per_s > 0


def test_the_simulated_queue_is_always_full_of_every_slo() -> None:
    lanes: list[int] = []
    queued: list[int] = []

    def policy(state: RouterState) -> Decision:
        lanes.append(len(state.lanes))
        queued.append(sum(len(lane.requests) for lane in state.lanes))
        return pareto(state)

    ticks = iter(range(10_000))
    decisions = Simulation(policy, queued=500).run(300, timer=lambda: float(next(ticks)))
    assert set(queued) == {500}
    assert max(lanes) == len(SLOS) - 1, "two differ in nothing but their deadline"
    assert decisions.quantile_us(0.5) == 1e6
    assert sum(decisions.kinds.values()) == 300
    assert decisions.kinds["Send"] > 0
    assert decisions.kinds["Idle"] > 0


def test_decisions_are_shown_by_the_number_of_requests_queued() -> None:
    grid = costs.decisions_grid(50)
    assert [row[0] for row in grid.rows] == ["10", "100", "1,000"]
    for _, p50, p99, p999, _ in grid.rows:
        assert 0 < int(p50) <= int(p99) <= int(p999)


def test_every_part_of_a_request_is_measured() -> None:
    done: list[None] = []
    measured = costs.measure(rounds=1, seconds=0.001, on_part=lambda: done.append(None))
    assert len(measured) == costs.count_parts() == len(done)
    assert all(cost > 0 for cost in measured.values())
    parts = [cost for name, cost in measured.items() if name.startswith("link")]
    assert parts[0] > parts[-1], "a batch of 64 must share its round trip"
    assert len(costs.costs_grid(measured).rows) == len(measured)

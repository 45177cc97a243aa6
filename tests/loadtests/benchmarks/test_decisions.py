from __future__ import annotations

from loadtests.benchmarks.decisions import SLOS, RouterSimulation, decisions_grid
from serving.routing.policy.pareto import pareto
from serving.routing.policy.state import Decision, RouterState


def test_the_simulated_queue_is_always_full_with_requests_of_every_slo() -> None:
    lanes: list[int] = []
    queued: list[int] = []

    def policy(state: RouterState) -> Decision:
        lanes.append(len(state.lanes))
        queued.append(sum(len(lane.requests) for lane in state.lanes))
        return pareto(state)

    ticks = iter(range(10_000))
    times = RouterSimulation(policy, queued=500).run(300, timer=lambda: float(next(ticks)))
    assert set(queued) == {500}
    assert max(lanes) == len(SLOS) - 1, "two SLOs differ only in the deadline"
    assert times.quantile_us(0.5) == 1e6
    assert sum(times.kinds.values()) == 300
    assert times.kinds["Send"] > 0
    assert times.kinds["Idle"] > 0


def test_decision_times_are_shown_by_the_length_of_the_queue() -> None:
    grid = decisions_grid(50)
    assert [row[0] for row in grid.rows] == ["10", "100", "1,000"]
    for _, p50, p99, p999, _ in grid.rows:
        assert 0 < int(p50) <= int(p99) <= int(p999)

"""Goodput curves of a simulated service."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtests.simulator.gateway_costs import GatewayCosts
from loadtests.steady.curve import CurvePlan, Loop, read_curve
from loadtests.steady.simulated import main
from loadtests.steady.simulated_curve import simulate_round
from tests.loadtests.catalogs import write_catalog
from tests.loadtests.simulator.services import constant_time_service

COSTS = GatewayCosts(per_request_s=0.005, per_answer_s=0.005, per_refusal_s=0.001)
PLAN = CurvePlan(
    clients=[1, 8], multiples=[0.5, 4], deadline_ms=50.0, loose_deadline_ms=10_000.0, seconds=0.5,
    settle_s=0.1,
)  # fmt: skip


def test_a_round_has_a_point_with_each_deadline_for_each_load() -> None:
    done: list[int] = []
    service = constant_time_service(0.001, costs=COSTS, max_batch=64)
    points = list(simulate_round(service, PLAN, "fifo", 3, lambda: done.append(1)))
    assert len(done) == PLAN.loads
    assert {(point.loop, point.level, point.is_loose) for point in points} == {
        (loop, level, is_loose)
        for loop, levels in ((Loop.CLOSED, PLAN.clients), (Loop.OPEN, PLAN.multiples))
        for level in levels
        for is_loose in (False, True)
    }
    goodput_per_s = {(p.loop, p.level): p.measured.goodput_per_s for p in points if p.is_loose}
    assert goodput_per_s[Loop.CLOSED, 1] == pytest.approx(1 / 0.011, rel=0.1)
    assert goodput_per_s[Loop.CLOSED, 8] == pytest.approx(1 / 0.010, rel=0.1)
    half, fourfold = goodput_per_s[Loop.OPEN, 0.5], goodput_per_s[Loop.OPEN, 4]
    assert half == pytest.approx(50, rel=0.3)
    assert fourfold < 110
    late = [p.measured for p in points if (p.loop, p.level) == (Loop.CLOSED, 8)]
    assert sorted(each.in_time for each in late)[0] < sorted(each.in_time for each in late)[1]


def test_the_command_writes_a_curve_that_can_be_compared(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "catalog")
    result = CliRunner().invoke(
        main,
        ["--catalog", str(catalog), "--gateway", "request_ms=5,answer_ms=5", "--policy", "fifo",
         "--clients", "1", "--offered", "", "--rounds", "1", "--seconds", "0.2",
         "--label", "simulated", "--out", str(tmp_path / "out")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    curve = read_curve(tmp_path / "out")
    assert (curve.label, curve.policies, len(curve.points)) == ("simulated", ("fifo",), 2)
    assert (tmp_path / "out" / "goodput.png").stat().st_size > 0

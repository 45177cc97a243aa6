from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.steady.client_process import start_load_client
from loadtests.steady.curve import (
    CURVE_FILE,
    CurvePlan,
    CurvePoint,
    Loop,
    measure_round,
    read_curve,
)
from loadtests.steady.target import ClientSettings, Target, find_target
from tests.loadtests.gateway_stub import METADATA, respond
from tests.loadtests.longer import repeat_longer
from tests.loadtests.server import ok, tiny_server
from tests.loadtests.steady.curves import curve
from tests.loadtests.steady.instant_client import PERIOD_S, instant_client
from variants.catalog import artifact

SETTINGS = ClientSettings(connections=8, is_real_time=False)
NOWHERE = Target("127.0.0.1", 1, "/v2/models/shirts/infer", METADATA, SETTINGS)
"""The target of a client that sends nothing."""


def plan(**fields: object) -> CurvePlan:
    values: dict[str, object] = {
        "clients": [1, 2],
        "multiples": [0.5, 2.0],
        "deadline_ms": 1000.0,
        "loose_deadline_ms": 60_000.0,
        "seconds": 0.1,
        "settle_s": 0.02,
    }
    return CurvePlan(**{**values, **fields})  # type: ignore[arg-type]


def test_a_round_measures_every_load_with_both_deadlines() -> None:
    done: list[None] = []
    points = list(
        measure_round(instant_client(), NOWHERE, plan(), "fifo", 0, lambda: done.append(None))
    )
    assert [(point.loop, point.level, point.is_loose) for point in points] == [
        (loop, level, is_loose)
        for loop, levels in ((Loop.CLOSED, (1, 2)), (Loop.OPEN, (0.5, 2)))
        for level in levels
        for is_loose in (False, True)
    ]
    assert len(done) == plan().loads == 9
    (capacity_per_s,) = {point.capacity_per_s for point in points}
    assert capacity_per_s == pytest.approx(64 / PERIOD_S)
    assert {(point.policy, point.round) for point in points} == {("fifo", 0)}
    assert all(point.measured.goodput_per_s > 0 for point in points)
    assert {point.measured.deadline_ms for point in points} == {1000, 60_000}
    half, double = (
        sum(p.measured.offered for p in points if p.loop is Loop.OPEN and p.level == level)
        for level in (0.5, 2)
    )
    assert 3 * half < double < 5 * half


def test_the_order_of_the_deadlines_alternates() -> None:
    once = plan(clients=[1], multiples=[])
    points = list(measure_round(instant_client(), NOWHERE, once, "fifo", 1))
    assert [point.is_loose for point in points] == [True, False]


def test_the_answers_of_a_service_are_goodput() -> None:
    def measure(seconds: float) -> list[CurvePoint]:
        short = plan(clients=[1], multiples=[1.0], seconds=seconds)
        try:
            return list(measure_round(client, target, short, "fifo", 0))
        except RuntimeError:  # no answer in so short a time
            return []

    def are_answered(points: list[CurvePoint]) -> bool:
        return bool(points) and all(point.goodput_per_s > 0 for point in points)

    with start_load_client() as client, tiny_server(respond) as port:
        target = find_target(f"http://127.0.0.1:{port}", SETTINGS)
        assert are_answered(repeat_longer(measure, are_answered))


def test_no_answer_at_all_is_an_error() -> None:
    def refuse(number: int, head: bytes) -> bytes:
        return ok(b"no", 429) if b"/infer" in head.split()[1] else respond(number, head)

    with start_load_client() as client, tiny_server(refuse) as port:
        target = find_target(f"http://127.0.0.1:{port}", SETTINGS)
        with pytest.raises(RuntimeError, match="64 clients got no answer"):
            list(measure_round(client, target, plan(clients=[]), "fifo", 0))


def test_a_target_must_be_an_http_url() -> None:
    with pytest.raises(ValueError, match="must be http://HOST:PORT, got 'localhost:1'"):
        find_target("localhost:1", SETTINGS)


def test_a_curve_can_be_read_again(tmp_path: Path) -> None:
    artifact.write_record(tmp_path / CURVE_FILE, curve("before"))
    assert read_curve(tmp_path) == curve("before")


def test_a_folder_without_a_curve_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a folder that --out has written"):
        read_curve(tmp_path)

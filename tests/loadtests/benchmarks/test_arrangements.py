from __future__ import annotations

from loadtests.benchmarks.arrangements import ARRANGEMENTS, arrangements_grid
from loadtests.benchmarks.closed_loops import ThroughputPoint, http_scenario
from serving.gateway.settings import Settings


def test_the_arrangements_are_valid_settings() -> None:
    for settings in ARRANGEMENTS.values():
        Settings.model_validate(settings)


def test_arrangements_stand_below_each_other_with_their_ratio_to_the_first() -> None:
    def point(rate: float) -> ThroughputPoint:
        return ThroughputPoint(rate, 1.0, 2.0)

    scenarios = {
        name: http_scenario(name, 80, "/", b"", {})
        for name in ("hosts: int8", "in the gateway: int8", "hosts: dense", "in the gateway: dense")
    }
    points = {
        (scenarios["in the gateway: int8"], 1): point(300),
        (scenarios["hosts: int8"], 1): point(200),
        (scenarios["hosts: dense"], 1): point(100),
        (scenarios["in the gateway: dense"], 1): point(50),
    }
    grid = arrangements_grid(points, "note")
    assert [(row[0], row[2], row[-1]) for row in grid.rows] == [
        ("dense", "hosts", "1.00"),
        ("dense", "in the gateway", "0.50"),
        ("int8", "hosts", "1.00"),
        ("int8", "in the gateway", "1.50"),
    ]

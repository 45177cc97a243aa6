from __future__ import annotations

from loadtests.benchmarks import costs
from loadtests.trials.grid import Grid


def test_a_grid_is_rendered_as_markdown() -> None:
    grid = Grid("Speed", ("what", "ms"), [("a", "1"), ("b", "2")], "noisy")
    assert grid.to_markdown() == (
        "**Speed**\n\n| what | ms |\n| --- | ---: |\n| a | 1 |\n| b | 2 |\n\nnoisy"
    )


def test_every_part_of_a_request_is_measured() -> None:
    done: list[None] = []
    costs_us = costs.measure(rounds=1, seconds=0.001, on_part=lambda: done.append(None))
    assert len(costs_us) == costs.count_parts() == len(done)
    assert all(cost_us > 0 for cost_us in costs_us.values())
    assert len(costs.costs_grid(costs_us).rows) == len(costs_us)

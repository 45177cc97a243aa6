"""Measures the cost of each part of a request, in microseconds per request, in process.

request_costs: protocol and data plane;   batch_costs: scheduler and link

Each part is production code. Only its surroundings are stubs: a scheduler that answers at once
around the data plane, a host that computes nothing around the scheduler and the link.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median

from loadtests.benchmarks.batch_costs import batch_parts, run_idle_host
from loadtests.benchmarks.request_costs import Part, request_parts
from loadtests.trials.grid import Grid


def measure(
    rounds: int, seconds: float, on_part: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Return the median cost of each part over rounds, in microseconds; the parts alternate.

    Each timing takes about `seconds`; `on_part` is called after it.
    """
    with run_idle_host() as address:
        parts = _parts(address)
        costs_us: dict[str, list[float]] = {name: [] for name in parts}
        for _ in range(rounds):
            for name, part in parts.items():
                costs_us[name].append(part(seconds))
                on_part()
    return {name: median(values) for name, values in costs_us.items()}


def count_parts() -> int:
    """Return the number of parts, for a progress bar."""
    return len(_parts(""))


def costs_grid(costs_us: Mapping[str, float]) -> Grid:
    """Return a table of the cost of each part."""
    rows = [(name, f"{cost_us:.1f}") for name, cost_us in costs_us.items()]
    return Grid("Cost of each part of a request", ("part", "µs per request"), rows)


def _parts(host_address: str) -> dict[str, Part]:
    return {**request_parts(), **batch_parts(host_address)}

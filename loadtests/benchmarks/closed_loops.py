"""Measures closed-loop scenarios round by round: throughput and latency by number of clients.

Scenarios alternate within one run, because on a machine that clients, gateway and hosts share,
only ratios between scenarios are meaningful.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import median
from typing import Final, TypeAlias

from loadtests.client.http import LoadResult, build_post_request, run_closed_loop

CLIENTS: Final = (1, 16, 64)
"""Numbers of clients that are measured."""

ClosedLoop: TypeAlias = Callable[[int, float], LoadResult]
"""Sends requests from a number of clients for a number of seconds."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A request that clients send repeatedly, and how they send it."""

    name: str
    samples: int
    """Samples per request."""
    request_bytes: int
    """Size of the request body; headers and framing are not included."""
    run_closed_loop: ClosedLoop


@dataclass(frozen=True, slots=True)
class ThroughputPoint:
    """One scenario at one number of clients."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


Points: TypeAlias = Mapping[tuple[Scenario, int], ThroughputPoint]
"""Results by scenario and number of clients."""


def http_scenario(
    name: str, port: int, path: str, body: bytes, headers: Mapping[str, str], samples: int = 1
) -> Scenario:
    """Return a scenario that posts the body to a path of an HTTP server on 127.0.0.1."""
    request = build_post_request(path, body, headers)
    return Scenario(name, samples, len(body), partial(run_closed_loop, port, request))


def measure(
    scenarios: Sequence[Scenario],
    clients: Sequence[int],
    rounds: int,
    seconds: float,
    on_run: Callable[[], None] = lambda: None,
) -> Points:
    """Return the medians over rounds. Each run takes `seconds`; `on_run` is called after it.

    Raises RuntimeError if a request failed, or if a run had no response.
    """
    results: dict[tuple[Scenario, int], list[ThroughputPoint]] = {}
    for _, count, scenario in product(range(rounds), clients, scenarios):
        result = scenario.run_closed_loop(count, seconds)
        if result.failures or not result.latencies_s:
            raise RuntimeError(
                f"{scenario.name}: {result.failures} requests failed: {result.first_failure!r}"
            )
        point = ThroughputPoint(
            result.requests_per_s, result.quantile_ms(0.5), result.quantile_ms(0.99)
        )
        results.setdefault((scenario, count), []).append(point)
        on_run()
    return {key: median_point(points) for key, points in results.items()}


def median_point(points: Sequence[ThroughputPoint]) -> ThroughputPoint:
    """Return the median of each field separately."""
    return ThroughputPoint(
        median(point.requests_per_s for point in points),
        median(point.p50_ms for point in points),
        median(point.p99_ms for point in points),
    )

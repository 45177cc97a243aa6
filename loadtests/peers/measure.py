"""Measures targets in turns. One server runs at a time, and each round starts it anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, TypeAlias

from loadtests.peers import wrk
from loadtests.peers.target import Running, Scenario, Target, verify, wait_until_ready
from loadtests.peers.wrk import Result

WARM_UP_S: Final = 1.0

Results: TypeAlias = Mapping[tuple[str, int], Result]
"""Medians by scenario and number of connections."""


@dataclass
class Measurement:
    """What the rounds have measured so far."""

    runs: dict[tuple[str, int], list[Result]] = field(default_factory=dict)
    """Results by scenario and number of connections, one for each round."""
    unavailable: dict[str, str] = field(default_factory=dict)
    """Reasons by target; it is not started again."""

    def results(self) -> Results:
        """Return the median of each field over the rounds, and the sum of errors."""
        return {key: median_result(runs) for key, runs in self.runs.items()}


def measure(
    targets: Sequence[Target],
    connections: Sequence[int],
    rounds: int,
    seconds: float,
    measurement: Measurement,
    on_turn: Callable[[str], None],
) -> None:
    """Add the results of all rounds to the measurement.

    `on_turn` is called with a description before each turn of a target. A target that does not
    start, answers wrongly or fails is recorded as unavailable.
    """
    for number in range(1, rounds + 1):
        for target in targets:
            if target.name in measurement.unavailable:
                continue
            on_turn(f"round {number} of {rounds}: {target.name}")
            try:
                _measure_turn(target, connections, seconds, measurement)
            except RuntimeError as error:
                measurement.unavailable[target.name] = str(error)


def median_result(runs: Sequence[Result]) -> Result:
    """Return the median of each field separately, and the sum of the errors."""
    return Result(
        requests_per_s=median(run.requests_per_s for run in runs),
        p50_ms=median(run.p50_ms for run in runs),
        p99_ms=median(run.p99_ms for run in runs),
        errors=sum(run.errors for run in runs),
    )


def _measure_turn(
    target: Target, connections: Sequence[int], seconds: float, measurement: Measurement
) -> None:
    with target.start() as running:
        for scenario in target.scenarios:
            wait_until_ready(running, scenario)
            verify(running, scenario)
            _load(running, scenario, max(connections), WARM_UP_S)
            for count in connections:
                result = _load(running, scenario, count, seconds)
                measurement.runs.setdefault((scenario.name, count), []).append(result)
            running.require_running()


def _load(running: Running, scenario: Scenario, connections: int, seconds: float) -> Result:
    exchange = scenario.exchange
    url = f"http://127.0.0.1:{running.port}{exchange.path}"
    return wrk.run(url, exchange.body, exchange.headers, connections, seconds)

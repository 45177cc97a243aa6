"""Measures how well a service predicts the latency of its answers, idle and under load.

    python -m loadtests.steady.predictions [--catalog DIR] [--offered 0.5,1,3] [--out DIR]

Each round: idle, the loads with Poisson arrivals, and idle again one second after each load.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click
import numpy as np
from rich.console import Console

from loadtests.benchmarks import options as benchmark_options
from loadtests.benchmarks.machine import describe_machine
from loadtests.steady import options
from loadtests.steady.client_process import LoadClient, start_load_client
from loadtests.steady.curve import CAPACITY_CLIENTS
from loadtests.steady.load import Floats
from loadtests.steady.measurement import summarize_load
from loadtests.steady.prediction_error import Predictions, predictions_grid, sample_predictions
from loadtests.steady.target import Target, open_target
from loadtests.trials.files import write_grids
from loadtests.trials.grid import show
from loadtests.workload.arrivals import Poisson, Uniform

IDLE_PER_S: Final = 10.0
"""Rate of requests to an idle service: each is answered long before the next one."""

PAUSE_S: Final = 1.0
"""Pause between a load and the measurement of the idle service after it, in seconds."""

MAX_SAMPLES: Final = 1000
"""Answers that are parsed in each measurement: parsing all would take CPU from the service."""

TABLES_FILE: Final = "predictions.md"


@click.command()
@options.catalog
@click.option("--url", help="Measure the service at this URL; --policy names its policy.")
@options.policies("pareto")
@options.numbers("--offered", "0.5,1,3", "Offered rates, in capacities.")
@options.deadline
@options.loose_deadline("for the capacity")
@benchmark_options.rounds(3)
@options.positive("--seconds", 5.0, "Duration of each measurement, in seconds.")
@options.settle(0.5)
@options.client_options
@options.out
@benchmark_options.markdown
def main(
    catalog: Path,
    url: str | None,
    policies: str,
    offered: Sequence[float],
    deadline_ms: float,
    loose_deadline_ms: float,
    rounds: int,
    seconds: float,
    settle: float,
    connections: str,
    pool: int,
    obey_retry_after: bool,
    real_time: bool,
    out: Path | None,
    as_markdown: bool,
) -> None:
    """Compare predicted latencies with those that clients see."""
    names = options.policy_names(policies, url)
    settings = options.client_settings(connections, pool, obey_retry_after, real_time)
    note = f"{rounds} rounds of {seconds:g} s. {describe_machine()} before."
    samples: list[Predictions] = []
    with start_load_client() as client:
        for number in range(rounds):
            for policy in names:
                with open_target(catalog, url, policy, settings) as target:
                    run = _Run(client, target, policy, number, deadline_ms, seconds, settle)
                    samples += run.measure(offered, loose_deadline_ms)
    grid = predictions_grid(samples, f"Predictions, deadline {deadline_ms:g} ms", note)
    show([grid], Console(), as_markdown=as_markdown)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_grids(out / TABLES_FILE, [grid])


class _Run:
    """One round of one policy."""

    def __init__(
        self,
        client: LoadClient,
        target: Target,
        policy: str,
        number: int,
        deadline_ms: float,
        seconds: float,
        settle_s: float,
    ) -> None:
        self._client = client
        self._target = target
        self._policy = policy
        self._rng = np.random.default_rng(number)
        self._deadline_ms = deadline_ms
        self._seconds = seconds
        self._settle_s = settle_s

    def measure(
        self, multiples: Sequence[float], loose_deadline_ms: float
    ) -> Iterator[Predictions]:
        """Yield the predictions of the idle service, of each load, and after each load."""
        yield self._sample_idle("idle")
        load = self._target.load(
            loose_deadline_ms, self._settle_s + self._seconds, clients=CAPACITY_CLIENTS
        )
        capacity_per_s = summarize_load(
            self._client.run(load), loose_deadline_ms, self._settle_s, load.seconds
        ).goodput_per_s
        for multiple in multiples:
            rate_per_s = multiple * capacity_per_s
            arrivals_s = Poisson().draw_times(self._rng, rate_per_s, self._settle_s + self._seconds)
            every = max(1, round(min(rate_per_s, capacity_per_s) * self._seconds / MAX_SAMPLES))
            yield self._sample(f"{multiple:g} x capacity", arrivals_s, every, self._settle_s)
            time.sleep(PAUSE_S)
            yield self._sample_idle(f"idle, {PAUSE_S:g} s after {multiple:g} x capacity")

    def _sample_idle(self, name: str) -> Predictions:
        arrivals_s = Uniform().draw_times(self._rng, IDLE_PER_S, self._seconds)
        return self._sample(name, arrivals_s, 1, 0.0)

    def _sample(
        self, name: str, arrivals_s: Floats, sample_every: int, settle_s: float
    ) -> Predictions:
        load = self._target.load(
            self._deadline_ms,
            settle_s + self._seconds,
            arrivals_s=arrivals_s,
            sample_every=sample_every,
        )
        return sample_predictions(self._client.run(load), self._policy, name, settle_s)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")

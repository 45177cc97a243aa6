"""Fits the costs of a gateway to the CPU time that it used under several loads.

The CPU time of a load is linear in what was done: answers x (request + answer) + batches x batch
+ refusals x (request + refusal) + seconds x idle. The costs are those with the least squares of
relative errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from loadtests.simulator.gateway_costs import GatewayCosts

READING_SHARE: Final = 0.5
"""Share of the cost of an answered request that is assumed for reading, parsing and admission. CPU
time alone does not tell it from the cost of rendering and writing the answer."""

MIN_CPU_S: Final = 0.01
"""Lower bound of a CPU time as the unit of its error, in seconds: the resolution of the counter."""


@dataclass(frozen=True, slots=True)
class GatewayCounters:
    """Counters of one gateway since its start."""

    cpu_s: float
    batches: float

    def since(self, before: GatewayCounters) -> GatewayCounters:
        """Return the differences to earlier counters."""
        return GatewayCounters(self.cpu_s - before.cpu_s, self.batches - before.batches)


@dataclass(frozen=True, slots=True)
class GatewayLoad:
    """What a gateway did in one run, and the CPU time that it used."""

    name: str
    seconds: float
    answers: int
    refusals: int
    batches: float
    cpu_s: float


def parse_counters(metrics: str) -> GatewayCounters:
    """Read the counters from the text of `/metrics`; raises ValueError if there is no CPU time."""
    cpu_s, batches = None, 0.0
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name == "process_cpu_seconds_total":
                cpu_s = sample.value
            elif sample.name == "paretoserve_batch_size_count":
                batches += sample.value
    if cpu_s is None:
        raise ValueError("/metrics has no process_cpu_seconds_total; it exists on Linux only")
    return GatewayCounters(cpu_s, batches)


def fit_costs(loads: Sequence[GatewayLoad], turns_per_batch: int) -> GatewayCosts:
    """Return the costs that fit these loads best; a cost that would be negative is 0.

    `turns_per_batch` cannot be measured and is taken over.

    Raises ValueError unless there are answers in batches of different sizes, and refusals.
    """
    columns = np.array(
        [[load.answers, load.batches, load.refusals, load.seconds] for load in loads], np.float64
    )
    cpu_s = np.array([load.cpu_s for load in loads])
    if np.linalg.matrix_rank(columns) < columns.shape[1]:
        raise ValueError(
            "the loads must have batches of different sizes, refusals and a time without requests"
        )
    weights = 1 / np.maximum(cpu_s, MIN_CPU_S)
    kept = list(range(columns.shape[1]))
    solution = np.zeros(columns.shape[1])
    while kept:  # a negative cost is removed, and the others are fitted again
        fitted = np.linalg.lstsq(columns[:, kept] * weights[:, None], cpu_s * weights, rcond=None)
        values = fitted[0]
        if values.min() >= 0:
            solution[kept] = values
            break
        del kept[int(values.argmin())]
    answered_s, batch_s, refused_s, _ = map(float, solution)
    request_s = READING_SHARE * answered_s
    return GatewayCosts(
        per_request_s=request_s,
        per_answer_s=answered_s - request_s,
        per_refusal_s=max(0.0, refused_s - request_s),
        per_batch_s=batch_s,
        turns_per_batch=turns_per_batch,
    )

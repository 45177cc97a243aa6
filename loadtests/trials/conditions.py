"""The conditions under which policies are compared: a grid of arrivals, loads and deadlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal, TypeAlias

from loadtests.trials.runs import Condition
from loadtests.workload.arrivals import Gamma, describe_arrivals
from loadtests.workload.demand import Demand, parse_demand
from serving.routing.profile import VariantProfile
from variants.catalog.recipe import DENSE

Table: TypeAlias = Literal["fastest", "dense", "goodput"]

GOODPUT_DEADLINE: Final = 2.0
"""Deadline of the goodput table, as a multiple of the median latency of dense at batch size 1."""


@dataclass(frozen=True, slots=True)
class ConditionGrid:
    """The values of each setting; each combination is one condition."""

    cv2s: Sequence[float]
    loads: Sequence[float]
    slo_factors: Mapping[Table, Sequence[float | None]]
    """Deadlines by table, as multiples of the p95 latency of its variant at batch size 1."""
    goodput_cv2s: Sequence[float]
    goodput_loads: Sequence[float]


FULL: Final = ConditionGrid(
    cv2s=(1, 2, 4, 8),
    loads=(0.3, 0.5, 0.7, 0.95, 1.1, 1.3),
    slo_factors={"fastest": (1, 1.5, 2, 2.5, 3.5), "dense": (1, 2, 3.5)},
    goodput_cv2s=(1, 4),
    goodput_loads=(0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.1, 1.2, 1.3),
)
QUICK: Final = ConditionGrid(
    cv2s=(1, 8),
    loads=(0.5, 0.95, 1.3),
    slo_factors={"fastest": (1.5, 3.5), "dense": (2,)},
    goodput_cv2s=(1,),
    goodput_loads=(0.4, 0.7, 0.95, 1.3),
)


@dataclass(frozen=True, slots=True)
class Case:
    """A condition and the demand that creates it."""

    condition: Condition
    demand: Demand


def condition_of(demand: Demand) -> Condition:
    """Return the condition of a demand, without the deadline, because there may be several."""
    if isinstance(demand.arrivals, Gamma):
        return Condition(kind="gamma", load=demand.load, cv2=demand.arrivals.cv2)
    return Condition(kind=describe_arrivals(demand.arrivals), load=demand.load)


def cases(
    table: Table,
    settings: ConditionGrid,
    profiles: Mapping[str, VariantProfile],
    *,
    requests: int,
    cores: int,
) -> list[Case]:
    """Return all conditions of a table, with about `requests` requests each.

    Raises ValueError if `profiles` lack dense or latencies at batch size 1.
    """
    is_goodput = table == "goodput"
    slo_factors = (None,) if is_goodput else settings.slo_factors[table]
    grid = product(
        slo_factors,
        settings.goodput_cv2s if is_goodput else settings.cv2s,
        settings.goodput_loads if is_goodput else settings.loads,
    )
    result = []
    for slo_factor, cv2, load in grid:
        demand = parse_demand(
            f"gamma:cv2={cv2:g}",
            [_slo(table, slo_factor, profiles)],
            load=load,
            requests=requests,
            profiles=profiles,
            cores=cores,
        )
        condition = condition_of(demand).model_copy(update={"slo_factor": slo_factor})
        result.append(Case(condition, demand))
    return result


def _slo(table: Table, slo_factor: float | None, profiles: Mapping[str, VariantProfile]) -> str:
    if slo_factor is not None:
        key = "latency_x" if table == "fastest" else "dense_x"
        return f"{key}={slo_factor:g}"
    if DENSE not in profiles or 1 not in profiles[DENSE].latencies:
        raise ValueError(f"the goodput table requires variant {DENSE}, measured at batch size 1")
    return f"latency_ms={GOODPUT_DEADLINE * profiles[DENSE].latencies[1].p50_s * 1e3!r}"

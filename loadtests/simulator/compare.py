"""Simulates several policies under the same load and compares them with the clairvoyant bound.

SimulatedService, Load, policies, seed ─▶ compare ─▶ Comparison: Runs, Outcomes, computing time
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

from loadtests.simulator.clients import ClosedLoop, Retries
from loadtests.simulator.faults import Fault, HostFailure
from loadtests.simulator.service import SimulatedService
from loadtests.simulator.simulate import NO_RETRIES, simulate, simulate_closed_loop
from loadtests.trials.bound import Bound, Outage, clairvoyant
from loadtests.trials.calibration import calibration
from loadtests.trials.conditions import condition_of
from loadtests.trials.outcomes import Outcomes
from loadtests.trials.runs import Condition, Run
from loadtests.trials.scores import score
from loadtests.workload.demand import Demand
from loadtests.workload.workload import SloClass, Workload
from serving.routing.policy import POLICIES

Load: TypeAlias = Demand | ClosedLoop
"""Requests at times that do not depend on the service, or clients that wait for their answers."""

ALL: Final = "all"
"""Name that stands for all policies."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Results of policies under one load, in the order of the policies."""

    runs: tuple[Run, ...]
    outcomes: tuple[Outcomes, ...]
    seconds: float
    """Computing time of the simulations, without the bound and the scores."""

    @property
    def requests(self) -> int:
        """The number of simulated requests, summed over the policies."""
        return sum(len(each.workload) for each in self.outcomes)


def parse_policies(texts: Collection[str]) -> tuple[str, ...]:
    """Parse comma-separated names of policies; no names, or `all`, stand for all policies.

    Returns them in the order of `POLICIES`, in which `pareto` is the first. Raises ValueError as
    `check_policy` does.
    """
    names = {name.strip() for text in texts for name in text.split(",")} or {ALL}
    for name in sorted(names - {ALL}):
        check_policy(name)
    return tuple(name for name in POLICIES if name in names or ALL in names)


def check_policy(name: str) -> None:
    """Raise ValueError if there is no such policy."""
    if name not in POLICIES:
        raise ValueError(f"no policy {name!r}; the policies are {', '.join(POLICIES)}")


def compare(
    service: SimulatedService,
    load: Load,
    policies: Sequence[str],
    seed: int,
    *,
    faults: Sequence[Fault] = (),
    is_bounded: bool = True,
    retries: Retries = NO_RETRIES,
) -> Comparison:
    """Simulate each policy on the requests drawn with `seed`, or with the clients of a closed loop.

    There is no bound for a closed loop and with retries, because the requests depend on the policy.

    Raises ValueError if there are no requests, if a request is larger than a batch, if a fault
    comes after the last request, and as `draw` and `ClosedLoop.check` do.
    """
    _check(load.classes, service)
    _check_faults(faults, load.seconds)
    bound, condition = None, _condition(load)
    if isinstance(load, ClosedLoop):
        run = partial(simulate_closed_loop, service, load)
    else:
        workload = load.draw(seed)
        if not len(workload):
            raise ValueError(
                f"no request arrives within {workload.seconds:g} s; increase the duration or the "
                "rate"
            )
        if is_bounded and retries == NO_RETRIES:
            bound = _bound(service, workload, faults)
        run = partial(simulate, service, workload, retries=retries)
    accuracy = {name: profile.accuracy for name, profile in service.profiles.items()}
    outcomes, took_s = [], 0.0
    for name in policies:
        start = time.perf_counter()
        outcomes.append(run(POLICIES[name], name=name, seed=seed, faults=faults))
        took_s += time.perf_counter() - start
    runs = (
        Run(
            condition=condition,
            seed=seed,
            score=score(each, accuracy, bound.utility if bound else None),
            attainable=bound.attainment if bound else None,
            calibration=each.batches and calibration(each.batches, each.variants, load.seconds),
        )
        for each in outcomes
    )
    return Comparison(tuple(runs), tuple(outcomes), took_s)


def _condition(load: Load) -> Condition:
    return Condition(kind=load.name) if isinstance(load, ClosedLoop) else condition_of(load)


def _check(classes: Sequence[SloClass], service: SimulatedService) -> None:
    largest = max(each.size for each in classes)
    if largest > service.max_batch:
        raise ValueError(
            f"a request of {largest} samples does not fit into a batch of at most "
            f"{service.max_batch}; raise --max-batch or reduce the size"
        )


def _check_faults(faults: Sequence[Fault], seconds: float) -> None:
    latest_s = max((each.at_s for each in faults), default=0.0)
    if latest_s >= seconds:
        raise ValueError(
            f"the fault at {latest_s:g} s comes after the last request, at "
            f"{seconds:.3g} s; give --seconds or more requests"
        )


def _bound(service: SimulatedService, workload: Workload, faults: Sequence[Fault]) -> Bound:
    """Return the bound. It ignores slowdowns, which only makes it looser."""
    return clairvoyant(
        workload,
        service.profiles,
        service.batch_times(),
        cores=service.cores,
        slots=dict.fromkeys(service.profiles, service.slots),
        max_batch=service.max_batch,
        outages=_outages([each for each in faults if isinstance(each, HostFailure)], service.slots),
    )


def _outages(failures: Sequence[HostFailure], slots: int) -> list[Outage]:
    """Return the outages of variants; overlapping host failures of a variant are merged."""
    outages: list[Outage] = []
    for failure in sorted(failures, key=lambda failure: (failure.variant, failure.at_s)):
        end_s = failure.at_s + failure.duration_s
        last = outages[-1] if outages else None
        if last is not None and last.variant == failure.variant and failure.at_s <= last.to_s:
            outages[-1] = replace(last, to_s=max(last.to_s, end_s))
        else:
            outages.append(Outage(failure.variant, failure.at_s, end_s, slots))
    return outages

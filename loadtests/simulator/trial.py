"""A simulated trial for a terminal: policies on one demand, several seeds.

catalog, Demand, policies ─▶ Trial, the first seed's outcomes, simulated requests a second
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.simulator.compare import Comparison, compare
from loadtests.simulator.simulate import Fault, SimulatedService
from loadtests.trials.files import write_outcomes, write_trial
from loadtests.trials.outcomes import Outcomes
from loadtests.trials.runs import Trial
from loadtests.workload.demand import Demand


@dataclass(frozen=True, slots=True)
class SimulatedTrial:
    """What came of it."""

    trial: Trial
    first: tuple[Outcomes, ...]
    """Those of the first seed, by policy."""
    requests: int
    seconds: float
    """Of real time that simulating took, bounds and counting aside."""

    @property
    def speed(self) -> str:
        """How fast it was, in words."""
        return (
            f"Simulated {self.requests:,} requests in {self.seconds:.1f} s: "
            f"{self.requests / self.seconds:,.0f} a second."
        )


def simulate_trial(
    service: SimulatedService,
    demand: Demand,
    policies: Sequence[str],
    seeds: int,
    *,
    faults: Sequence[Fault] = (),
    is_bounded: bool = True,
    note: str = "",
    on_done: Callable[[int], None] = lambda seeds: None,
) -> SimulatedTrial:
    """Simulate every policy with each of so many seeds; `on_done` is told how many are done.

    Raises as `compare` does.
    """
    found: list[Comparison] = []
    for seed in range(seeds):
        found.append(compare(service, demand, policies, seed, faults=faults, is_bounded=is_bounded))
        on_done(seed + 1)
    return SimulatedTrial(
        Trial(
            title=trial_title(demand, found[0].outcomes[0]),
            note=note,
            runs=tuple(run for compared in found for run in compared.runs),
        ),
        found[0].outcomes,
        sum(compared.requests for compared in found),
        sum(compared.seconds for compared in found),
    )


def trial_title(demand: Demand, outcomes: Outcomes) -> str:
    """Say what was asked of the service: the workload, and the load where it is known."""
    name = outcomes.workload.name
    return name if demand.load is None else f"{name}, load {demand.load:g}"


def write_simulated(
    simulated: SimulatedTrial, service: SimulatedService, folder: Path
) -> list[Path]:
    """Write tables, plots and the first seed's outcomes of every policy; return the files."""
    accuracy = {name: profile.accuracy for name, profile in service.profiles.items()}
    written = write_trial(folder, simulated.trial, simulated.first, accuracy)
    return [*written, *write_outcomes_by_policy(simulated.first, folder)]


def write_outcomes_by_policy(outcomes: Sequence[Outcomes], folder: Path) -> list[Path]:
    """Write outcomes, each into a file called by its policy; return the files."""
    written = []
    for each in outcomes:
        path = folder / f"{each.policy.replace(' ', '-')}.npz"
        write_outcomes(each, path)
        written.append(path)
    return written

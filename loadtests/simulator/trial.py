"""Simulated trials: several policies on one demand with several seeds.

SimulatedService, Demand, policies ─▶ simulate_trial ─▶ SimulatedTrial ─▶ files
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
    """The runs of all seeds and the outcomes of the first one."""

    trial: Trial
    first_outcomes: tuple[Outcomes, ...]
    """Outcomes of the first seed, one per policy."""
    requests: int
    """Number of simulated requests, summed over policies and seeds."""
    seconds: float
    """Computing time of the simulations, without bounds and scores."""

    @property
    def speed(self) -> str:
        """The speed of the simulation as a sentence."""
        return (
            f"Simulated {self.requests:,} requests in {self.seconds:.1f} s: "
            f"{self.requests / self.seconds:,.0f} per second."
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
    """Simulate every policy with the seeds 0 to `seeds` - 1.

    `on_done` receives the number of completed seeds. Raises as `compare` does.
    """
    comparisons: list[Comparison] = []
    for seed in range(seeds):
        comparisons.append(
            compare(service, demand, policies, seed, faults=faults, is_bounded=is_bounded)
        )
        on_done(seed + 1)
    return SimulatedTrial(
        Trial(
            title=trial_title(demand, comparisons[0].outcomes[0]),
            note=note,
            runs=tuple(run for comparison in comparisons for run in comparison.runs),
        ),
        comparisons[0].outcomes,
        sum(comparison.requests for comparison in comparisons),
        sum(comparison.seconds for comparison in comparisons),
    )


def trial_title(demand: Demand, outcomes: Outcomes) -> str:
    """Return the title of a trial: the name of the workload, and the load if it is known."""
    name = outcomes.workload.name
    return name if demand.load is None else f"{name}, load {demand.load:g}"


def write_simulated(
    simulated: SimulatedTrial, service: SimulatedService, folder: Path
) -> list[Path]:
    """Write tables, plots and the outcomes of the first seed; return the paths."""
    accuracy = {name: profile.accuracy for name, profile in service.profiles.items()}
    written = write_trial(folder, simulated.trial, simulated.first_outcomes, accuracy)
    return [*written, *write_outcomes_by_policy(simulated.first_outcomes, folder)]


def write_outcomes_by_policy(outcomes: Sequence[Outcomes], folder: Path) -> list[Path]:
    """Write the outcomes of each policy to a file with its name; return the paths."""
    written = []
    for each in outcomes:
        path = folder / f"{each.policy.replace(' ', '-')}.npz"
        write_outcomes(each, path)
        written.append(path)
    return written

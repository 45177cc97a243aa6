"""Simulated trials: several policies under one load with several seeds.

SimulatedService, Load, policies ─▶ simulate_trial ─▶ SimulatedTrial ─▶ files
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.simulator.clients import ClosedLoop, Retries
from loadtests.simulator.compare import Comparison, Load, compare
from loadtests.simulator.faults import Fault
from loadtests.simulator.service import SimulatedService
from loadtests.simulator.simulate import NO_RETRIES
from loadtests.trials.files import write_outcomes, write_trial
from loadtests.trials.outcomes import Outcomes
from loadtests.trials.runs import Trial


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
    load: Load,
    policies: Sequence[str],
    seeds: int,
    *,
    faults: Sequence[Fault] = (),
    is_bounded: bool = True,
    retries: Retries = NO_RETRIES,
    note: str = "",
    on_done: Callable[[int], None] = lambda seeds: None,
) -> SimulatedTrial:
    """Simulate every policy with the seeds 0 to `seeds` - 1.

    `on_done` receives the number of completed seeds. Raises as `compare` does.
    """
    comparisons: list[Comparison] = []
    for seed in range(seeds):
        comparisons.append(
            compare(
                service,
                load,
                policies,
                seed,
                faults=faults,
                is_bounded=is_bounded,
                retries=retries,
            )
        )
        on_done(seed + 1)
    return SimulatedTrial(
        Trial(
            title=trial_title(load, comparisons[0].outcomes[0]),
            note=note,
            runs=tuple(run for comparison in comparisons for run in comparison.runs),
        ),
        comparisons[0].outcomes,
        sum(comparison.requests for comparison in comparisons),
        sum(comparison.seconds for comparison in comparisons),
    )


def trial_title(load: Load, outcomes: Outcomes) -> str:
    """Return the title of a trial: the name of the workload, and the load if it is known."""
    name = outcomes.workload.name
    if isinstance(load, ClosedLoop) or load.load is None:
        return name
    return f"{name}, load {load.load:g}"


def write_simulated(
    simulated: SimulatedTrial, service: SimulatedService, folder: Path
) -> list[Path]:
    """Write tables, plots and the outcomes of the first seed; return the paths.

    There are no plots over time if the requests depend on the policy.
    """
    accuracy = {name: profile.accuracy for name, profile in service.profiles.items()}
    outcomes = simulated.first_outcomes
    has_one_workload = all(each.workload is outcomes[0].workload for each in outcomes)
    written = write_trial(folder, simulated.trial, outcomes if has_one_workload else (), accuracy)
    return [*written, *write_outcomes_by_policy(simulated.first_outcomes, folder)]


def write_outcomes_by_policy(outcomes: Sequence[Outcomes], folder: Path) -> list[Path]:
    """Write the outcomes of each policy to a file with its name; return the paths."""
    written = []
    for each in outcomes:
        path = folder / f"{each.policy.replace(' ', '-')}.npz"
        write_outcomes(each, path)
        written.append(path)
    return written

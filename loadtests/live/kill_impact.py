"""What killing hosts did to requests: those in hand at each kill, and those of the seconds after.

Outcomes, Kills, when the workload started ─▶ Aftermath of each ─▶ Grids
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from loadtests.live.fault_injection import Kill
from loadtests.simulator.simulate import HostFailure
from loadtests.trials.grid import Grid
from loadtests.trials.outcomes import Outcomes, RequestStatus
from loadtests.trials.tables import NO_VALUE

WINDOW_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class KillImpact:
    """One kill, and the requests that it may have touched."""

    kill: Kill
    at_s: float
    """From the start of the workload."""
    requests: int
    """Those that were open at the kill, or came within `WINDOW_S` after it."""
    on_time: int


@dataclass(frozen=True, slots=True)
class Survived:
    """A whole run in which hosts were killed."""

    name: str
    kills: tuple[KillImpact, ...]
    requests: int
    on_time: int
    lost: int
    failed: int

    def deaths(self, seconds: float) -> tuple[HostFailure, ...]:
        """Return the same for a simulation of so many seconds, in which each variant has one host.

        A host that was not seen to come back stays away.
        """
        return tuple(
            HostFailure(each.at_s, each.kill.variant, each.kill.back_after_s or seconds)
            for each in self.kills
        )


def survived(name: str, outcomes: Outcomes, kills: Sequence[Kill], started_s: float) -> Survived:
    """Count what became of the requests of a workload that started at `started_s`.

    `started_s` is by the clock of the kills. A kill after the last arrival is left out.
    """
    seconds = outcomes.workload.seconds
    found = [_kill_impact(outcomes, kill, kill.at_s - started_s) for kill in kills]
    return Survived(
        name=name,
        kills=tuple(each for each in found if each.at_s < seconds),
        requests=len(outcomes.workload),
        on_time=int(outcomes.on_time.sum()),
        lost=int((outcomes.status == RequestStatus.LOST).sum()),
        failed=int((outcomes.status == RequestStatus.FAILED).sum()),
    )


def _kill_impact(outcomes: Outcomes, kill: Kill, at_s: float) -> KillImpact:
    # A request that has no end was open all the time since it came: NaN is below nothing.
    touched = (outcomes.workload.arrivals_s < at_s + WINDOW_S) & ~(outcomes.finished_s < at_s)
    return KillImpact(kill, at_s, int(touched.sum()), int(outcomes.on_time[touched].sum()))


def survival_grids(runs: Sequence[Survived]) -> list[Grid]:
    """Return a table with a row per run, and one with a row per kill."""
    window = f"on time {WINDOW_S:g} s after, %"
    by_run = [
        (
            run.name,
            f"{len(run.kills)}",
            _share(run.on_time, run.requests),
            _share(sum(k.on_time for k in run.kills), sum(k.requests for k in run.kills)),
            f"{run.lost:,}",
            f"{run.failed:,}",
            *_back(run.kills),
        )
        for run in runs
    ]
    by_kill = [
        (
            run.name,
            each.kill.variant,
            f"{each.at_s:.1f}",
            f"{each.requests:,}",
            _share(each.on_time, each.requests),
            _seconds(each.kill.back_after_s),
        )
        for run in runs
        for each in run.kills
    ]
    note = "A request is counted after a kill if it was open then, or came in the time after."
    return [
        Grid(
            "Hosts killed",
            (
                "run", "kills", "on time, %", window, "lost", "failed", "back after, s",
                "at most, s", "not seen back",
            ),
            by_run,
            note,
        ),
        Grid(
            "Each kill",
            ("run", "variant", "at, s", "requests", window, "back after, s"),
            by_kill,
        ),
    ]  # fmt: skip


def _back(kills: Sequence[KillImpact]) -> tuple[str, str, str]:
    """Return the median and the most of the times until hosts were back, and how many were not."""
    known = [k.kill.back_after_s for k in kills if k.kill.back_after_s is not None]
    if not known:
        return NO_VALUE, NO_VALUE, str(len(kills))
    return _seconds(float(median(known))), _seconds(max(known)), str(len(kills) - len(known))


def _share(part: int, of: int) -> str:
    return f"{100 * part / of:.3f}" if of else NO_VALUE


def _seconds(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.2f}"

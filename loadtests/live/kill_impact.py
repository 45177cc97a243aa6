"""Effect of host kills on requests: those open at a kill, and those of the next seconds.

Outcomes, HostKills, start of the workload ─▶ KillImpact of each kill ─▶ Grids
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from loadtests.live.fault_injection import HostKill
from loadtests.simulator.faults import HostFailure
from loadtests.trials.grid import Grid
from loadtests.trials.outcomes import Outcomes, RequestStatus
from loadtests.trials.tables import NO_VALUE

WINDOW_S: Final = 2.0
"""Time after a kill whose arrivals count as affected, in seconds."""


@dataclass(frozen=True, slots=True)
class KillImpact:
    """One kill, and the requests that it may have affected."""

    kill: HostKill
    at_s: float
    """Seconds from the start of the workload."""
    requests: int
    """Number of requests that were open at the kill or arrived within `WINDOW_S` after it."""
    on_time: int
    """Number of these requests that were answered on time."""


@dataclass(frozen=True, slots=True)
class KillSummary:
    """A whole run during which hosts were killed."""

    name: str
    kills: tuple[KillImpact, ...]
    requests: int
    on_time: int
    lost: int
    failed: int

    def host_failures(self, seconds: float) -> tuple[HostFailure, ...]:
        """Return the same failures for a simulation of `seconds` with one host per variant.

        A host that was not seen to come back stays away.
        """
        return tuple(
            HostFailure(each.at_s, each.kill.variant, each.kill.back_after_s or seconds)
            for each in self.kills
        )


def summarize_kills(
    name: str, outcomes: Outcomes, kills: Sequence[HostKill], started_s: float
) -> KillSummary:
    """Count the outcomes of the requests of a workload that started at `started_s`.

    `started_s` is a time of the same clock as the kills. Kills after the last arrival are omitted.
    """
    seconds = outcomes.workload.seconds
    impacts = [_kill_impact(outcomes, kill, kill.at_s - started_s) for kill in kills]
    return KillSummary(
        name=name,
        kills=tuple(impact for impact in impacts if impact.at_s < seconds),
        requests=len(outcomes.workload),
        on_time=int(outcomes.on_time.sum()),
        lost=int((outcomes.status == RequestStatus.LOST).sum()),
        failed=int((outcomes.status == RequestStatus.FAILED).sum()),
    )


def _kill_impact(outcomes: Outcomes, kill: HostKill, at_s: float) -> KillImpact:
    # A request that never finished has NaN, which compares False: it counts as open ever since.
    affected = (outcomes.workload.arrivals_s < at_s + WINDOW_S) & ~(outcomes.finished_s < at_s)
    return KillImpact(kill, at_s, int(affected.sum()), int(outcomes.on_time[affected].sum()))


def kill_grids(runs: Sequence[KillSummary]) -> list[Grid]:
    """Return a table with a row per run, and one with a row per kill."""
    window = f"on time {WINDOW_S:g} s after, %"
    by_run = [
        (
            run.name,
            f"{len(run.kills)}",
            _percentage(run.on_time, run.requests),
            _percentage(sum(k.on_time for k in run.kills), sum(k.requests for k in run.kills)),
            f"{run.lost:,}",
            f"{run.failed:,}",
            *_recovery_cells(run.kills),
        )
        for run in runs
    ]
    by_kill = [
        (
            run.name,
            each.kill.variant,
            f"{each.at_s:.1f}",
            f"{each.requests:,}",
            _percentage(each.on_time, each.requests),
            _seconds(each.kill.back_after_s),
        )
        for run in runs
        for each in run.kills
    ]
    note = (
        f"A request counts for a kill if it was open then or arrived within {WINDOW_S:g} s after it"
    )
    return [
        Grid(
            "Hosts killed",
            (
                "run", "kills", "on time, %", window, "lost", "failed", "median back after, s",
                "max back after, s", "not seen back",
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


def _recovery_cells(kills: Sequence[KillImpact]) -> tuple[str, str, str]:
    """Return the median and maximum recovery time, and how many hosts were not seen back."""
    known = [k.kill.back_after_s for k in kills if k.kill.back_after_s is not None]
    if not known:
        return NO_VALUE, NO_VALUE, str(len(kills))
    return _seconds(float(median(known))), _seconds(max(known)), str(len(kills) - len(known))


def _percentage(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3f}" if whole else NO_VALUE


def _seconds(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.2f}"

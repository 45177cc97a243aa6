"""Live runs of policies side by side, and each beside its simulation.

Turns ─▶ live_grid, gaps_grid;   Turns ─▶ Trial, for files and plots

A run that does not count is shown all the same, in a row of its own that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final

from loadtests.grid import Grid
from loadtests.live.turn import Turn
from loadtests.replay.live import GAP
from loadtests.trial.metric import METRICS, Metric
from loadtests.trial.overview import answered_by
from loadtests.trial.repeats import estimate
from loadtests.trial.runs import Run, Trial
from loadtests.trial.tables import NOTHING

COLUMNS: Final = (
    "attainment", "mean_accuracy", "utility", "goodput_per_s", "p50_s", "p99_s", "shed", "expired",
    "failed", "lost",
)  # fmt: skip
INVALID: Final = ", INVALID"


def live_name(turn: Turn) -> str:
    """Return what a turn's live run is called in tables."""
    return turn.policy + (INVALID if turn.invalid else "")


def live_grid(turns: Sequence[Turn], title: str, note: str = "") -> Grid:
    """Return a row per policy, the mean of its runs with half the 95 % interval."""
    rows = []
    for name, some in _by_name(turns).items():
        scores = [turn.live.run.score for turn in some]
        rows.append(
            (
                name,
                str(len(some)),
                *(_cell([METRICS[c].get(s) for s in scores], METRICS[c]) for c in COLUMNS),
                f"{1e3 * fmean(turn.live.lag.p99_s for turn in some):.2f}",
                answered_by(scores),
            )
        )
    columns = (
        "policy", "runs", *(METRICS[name].title for name in COLUMNS), "client p99 late, ms",
        "answered by, %",
    )  # fmt: skip
    why = dict.fromkeys(turn.invalid for turn in turns if turn.invalid)
    notes = (note, f"invalid: {'; '.join(why)}" if why else "")
    return Grid(title, columns, rows, ". ".join(filter(None, notes)))


def gaps_grid(turns: Sequence[Turn]) -> Grid:
    """Return three rows per policy: live, simulated on the same requests, and the difference.

    The difference is taken seed by seed.
    """
    rows = []
    for name, some in _by_name(turns).items():
        pairs = [(turn.live.run.score, turn.simulated.runs[0].score) for turn in some]
        found = {metric: [tuple(map(METRICS[metric].get, p)) for p in pairs] for metric in GAP}
        for what, pick, sign in (
            ("live", lambda live, _: live, ""),
            ("simulated", lambda _, simulated: simulated, ""),
            ("live minus simulated", _minus, "+"),
        ):
            cells = (_cell([pick(*p) for p in found[m]], METRICS[m], sign) for m in GAP)
            rows.append((f"{name}: {what}", *cells))
    columns = ("", *(METRICS[name].title for name in GAP))
    note = "Simulated with what batches took in each service's own calibration"
    return Grid("Simulation and reality", columns, rows, note)


def live_trial(turns: Sequence[Turn], title: str, note: str) -> Trial:
    """Return every run, live and simulated, ours first."""
    live = tuple(_renamed(turn.live.run, f"{live_name(turn)} live") for turn in turns)
    simulated = tuple(run for turn in turns for run in turn.simulated.runs)
    return Trial(title=title, note=note, runs=(*live, *simulated))


def _renamed(run: Run, name: str) -> Run:
    return run.model_copy(update={"score": run.score.model_copy(update={"policy": name})})


def _by_name(turns: Sequence[Turn]) -> Mapping[str, list[Turn]]:
    found: dict[str, list[Turn]] = {}
    for turn in turns:
        found.setdefault(live_name(turn), []).append(turn)
    return found


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _cell(values: Sequence[float | None], metric: Metric, sign: str = "") -> str:
    mean = estimate(values)
    if mean is None:
        return NOTHING
    value = f"{metric.scale * mean.value:{sign}z,.{metric.digits}f}"
    reach = "" if mean.reach is None else f" ±{metric.scale * mean.reach:.{metric.digits}f}"
    return value + reach

"""Policies side by side, as tables for the terminal and for Markdown, and as CSV.

Trial ─▶ summary, by_condition, by_class, by_prediction ─▶ Grid;   Trial ─▶ render_csv
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final

from loadtests.trials.calibration import NOMINAL, Coverage
from loadtests.trials.grid import Grid
from loadtests.trials.metric import METRICS
from loadtests.trials.repeats import are_paired, dominating_policies, estimate
from loadtests.trials.runs import Condition, Trial
from loadtests.trials.scores import Score
from variants.measurement.evaluation import wilson_interval
from variants.report.text import interval

NO_VALUE: Final = "-"

COLUMNS: Final = (
    "attainment", "mean_accuracy", "utility", "regret", "goodput_per_s", "shed", "expired",
    "p50_s", "p99_s", "mean_batch_size", "switches_per_1000_batches", "max_accuracy_drop",
    "floor_violations", "failed", "lost",
)  # fmt: skip
"""What a table of one condition shows, by name in `METRICS`, where there is something to show."""

_ONLY_IF_ANY: Final = frozenset({"floor_violations", "failed", "lost"})
"""What ought to be 0: a column only where it is not, and then nobody overlooks it."""


ATTAINMENT_GOAL: Final = 0.999
"""The attainment that a policy should reach wherever it can be reached."""


def summary(trial: Trial) -> Grid:
    """Return a row per policy over all conditions of a trial.

    The last columns count conditions: where 99.9 % on time was missed, of those in which it could
    be reached by the bound's word; and where the policy dominates ours, see `repeats.Difference`,
    of those with repeats to tell by.
    """
    scores = trial.scores
    ours = trial.policies[0]
    attainable = {c for c in scores if trial.attainable.get(c, 0.0) >= ATTAINMENT_GOAL}
    compared = [c for c, by_policy in scores.items() if len(by_policy.get(ours, ())) > 1]
    rows = []
    for policy in trial.policies:
        found = {c: by_policy[policy] for c, by_policy in scores.items() if policy in by_policy}
        attained = {c: fmean(one.attainment for one in some) for c, some in found.items()}
        everything = [one for some in found.values() for one in some]
        regrets = [one.regret for one in everything if one.regret is not None]
        accuracies = [one.mean_accuracy for one in everything if one.mean_accuracy is not None]
        misses = [c for c in attainable & found.keys() if attained[c] < ATTAINMENT_GOAL]
        wins = [c for c in compared if _dominates(scores[c].get(policy, ()), scores[c][ours])]
        rows.append(
            (
                policy,
                str(len(found)),
                f"{100 * fmean(attained.values()):.3f}",
                f"{100 * min(attained.values()):.3f}",
                f"{100 * fmean(accuracies):.2f}" if accuracies else NO_VALUE,
                f"{100 * fmean(one.utility for one in everything):.2f}",
                f"{100 * fmean(regrets):z.2f}" if regrets else NO_VALUE,
                f"{100 * max(regrets):z.2f}" if regrets else NO_VALUE,
                f"{len(misses)} of {len(attainable & found.keys())}" if attainable else NO_VALUE,
                f"{len(wins)} of {len(compared)}" if compared and policy != ours else NO_VALUE,
            )
        )
    columns = (
        "policy", "conditions", "on time, %", "least on time, %", "accuracy, %", "utility, %",
        "regret, %", "worst regret, %", f"misses {100 * ATTAINMENT_GOAL:g} %", f"dominates {ours}",
    )  # fmt: skip
    return Grid(trial.title, columns, rows, trial.note)


def _dominates(other: Sequence[Score], ours: Sequence[Score]) -> bool:
    # what lacks repeats, of a trial that was cut off or with invalid runs, has shown nothing
    return are_paired(ours, other) and bool(dominating_policies(ours, {"other": other}))


def by_condition(trial: Trial) -> list[Grid]:
    """Return a table per condition, a row per policy: means, with half the 95 % t-interval."""
    return [_of_condition(condition, found) for condition, found in trial.scores.items()]


def _of_condition(condition: Condition, by_policy: Mapping[str, Sequence[Score]]) -> Grid:
    names = [name for name in COLUMNS if _is_shown(name, by_policy)]
    rows = [
        (policy, *(format_metric(name, scores) for name in names))
        for policy, scores in by_policy.items()
    ]
    first = next(iter(by_policy.values()))
    repeats = f", {len(first)} seeds, ± 95 % of the mean" if len(first) > 1 else ""
    note = f"{sum(score.requests for score in first):,} requests for each policy{repeats}"
    return Grid(condition.label, ("policy", *(METRICS[name].title for name in names)), rows, note)


def by_class(by_policy: Mapping[str, Sequence[Score]], title: str) -> Grid:
    """Return a row per policy and class, averaged over repeats."""
    rows = []
    for policy, scores in by_policy.items():
        for name, first in scores[0].classes.items():
            found = [score.classes[name] for score in scores]
            rows.append(
                (
                    policy,
                    name,
                    _share([one.attainment for one in found]),
                    _share([one.mean_accuracy for one in found]),
                    f"{100 * first.floor:.2f}",
                    _share([one.utility for one in found]),
                    f"{sum(one.floor_violations for one in found):,}",
                )
            )
    columns = (
        "policy", "class", "on time, %", "accuracy, %", "floor, %", "utility, %", "below floor",
    )  # fmt: skip
    return Grid(title, columns, rows)


def by_prediction(trial: Trial) -> Grid | None:
    """Return how often batches stayed within their prediction, by policy and variant, of all runs.

    None if no run was held against its predictions.
    """
    found: dict[tuple[str, str], list[Coverage]] = {}
    for run in trial.runs:
        if run.calibration is not None:
            named = {"all": run.calibration.overall, **run.calibration.variants}
            for variant, coverage in named.items():
                found.setdefault((run.score.policy, variant), []).append(coverage)
    rows = []
    for names in sorted(found, key=lambda names: trial.policies.index(names[0])):
        batches = sum(each.batches for each in found[names])
        within = sum(round(each.within.value * each.batches) for each in found[names])
        share = interval(wilson_interval(within, batches), "{:.2f}", scale=100)
        rows.append((*names, f"{batches:,}", share))
    title = f"Batches within the time predicted at {100 * NOMINAL:g} %"
    columns = ("policy", "variant", "batches", "within, % [95 % interval]")
    return Grid(title, columns, rows) if rows else None


def render_csv(trial: Trial) -> str:
    """Write every run as a line, every metric in its unit inside: seconds, and shares 0 to 1."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("kind", "load", "cv2", "slo_factor", "seed", "policy", "attainable", *METRICS))
    for run in trial.runs:
        condition = run.condition
        known = (condition.kind, condition.load, condition.cv2, condition.slo_factor, run.seed)
        values = (metric.get(run.score) for metric in METRICS.values())
        writer.writerow(
            (*known, run.score.policy, run.attainable, *values)
        )  # None is written as nothing
    return text.getvalue()


def _is_shown(name: str, by_policy: Mapping[str, Sequence[Score]]) -> bool:
    values = [METRICS[name].get(score) for scores in by_policy.values() for score in scores]
    if name in _ONLY_IF_ANY:
        return any(values)
    return any(value is not None for value in values)


def format_metric(name: str, scores: Sequence[Score]) -> str:
    """Return a metric over several runs, as a table shows it."""
    metric = METRICS[name]
    return format_mean([metric.get(score) for score in scores], metric.scale, metric.digits)


def _share(values: Sequence[float | None]) -> str:
    return format_mean(values, 100, 2)


def format_mean(values: Sequence[float | None], scale: float, digits: int, sign: str = "") -> str:
    """Return a mean, and half its 95 % interval if there are several; "+" shows both signs."""
    mean = estimate(values)
    if mean is None:
        return NO_VALUE
    value = f"{scale * mean.value:{sign}z,.{digits}f}"
    return value if mean.half_width is None else f"{value} ±{scale * mean.half_width:.{digits}f}"

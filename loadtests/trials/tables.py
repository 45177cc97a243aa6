"""Tables that compare policies, for a terminal, Markdown and CSV.

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
"""Text of an undefined value."""

COLUMNS: Final = (
    "attainment", "mean_accuracy", "utility", "regret", "goodput_per_s", "shed", "expired",
    "p50_s", "p99_s", "mean_batch_size", "switches_per_1000_batches", "max_accuracy_drop",
    "floor_violations", "failed", "lost",
)  # fmt: skip
"""Columns of the table of a condition, by name in `METRICS`; omitted if without values."""

_ONLY_IF_ANY: Final = frozenset({"floor_violations", "failed", "lost"})
"""Metrics that must be 0; their columns are omitted if they are."""


ATTAINMENT_GOAL: Final = 0.999
"""Attainment that a policy must reach in all conditions in which the bound permits it."""


def summary(trial: Trial) -> Grid:
    """Return a row per policy with means over all conditions of a trial.

    The last two columns count conditions: those in which the policy misses 99.9 % on time, of those
    in which the bound permits it; and those in which the policy dominates the evaluated one
    (`repeats.Difference`), of those with repeats.
    """
    scores = trial.scores
    evaluated = trial.policies[0]
    attainable = {c for c in scores if trial.attainable.get(c, 0.0) >= ATTAINMENT_GOAL}
    compared = [c for c, by_policy in scores.items() if len(by_policy.get(evaluated, ())) > 1]
    rows = []
    for policy in trial.policies:
        repeats = {c: by_policy[policy] for c, by_policy in scores.items() if policy in by_policy}
        attainment = {
            c: fmean(each.attainment for each in repeated) for c, repeated in repeats.items()
        }
        all_scores = [each for repeated in repeats.values() for each in repeated]
        regrets = [each.regret for each in all_scores if each.regret is not None]
        accuracies = [each.mean_accuracy for each in all_scores if each.mean_accuracy is not None]
        misses = [c for c in attainable & repeats.keys() if attainment[c] < ATTAINMENT_GOAL]
        wins = [c for c in compared if _dominates(scores[c].get(policy, ()), scores[c][evaluated])]
        rows.append(
            (
                policy,
                str(len(repeats)),
                f"{100 * fmean(attainment.values()):.3f}",
                f"{100 * min(attainment.values()):.3f}",
                f"{100 * fmean(accuracies):.2f}" if accuracies else NO_VALUE,
                f"{100 * fmean(each.utility for each in all_scores):.2f}",
                f"{100 * fmean(regrets):z.2f}" if regrets else NO_VALUE,
                f"{100 * max(regrets):z.2f}" if regrets else NO_VALUE,
                f"{len(misses)} of {len(attainable & repeats.keys())}" if attainable else NO_VALUE,
                f"{len(wins)} of {len(compared)}" if compared and policy != evaluated else NO_VALUE,
            )
        )
    columns = (
        "policy", "conditions", "on time, %", "least on time, %", "accuracy, %", "utility, %",
        "regret, %", "worst regret, %", f"misses {100 * ATTAINMENT_GOAL:g} %",
        f"dominates {evaluated}",
    )  # fmt: skip
    return Grid(trial.title, columns, rows, trial.note)


def _dominates(other: Sequence[Score], evaluated: Sequence[Score]) -> bool:
    # an interrupted trial, or one with invalid runs, may lack repeats
    return are_paired(evaluated, other) and bool(dominating_policies(evaluated, {"other": other}))


def by_condition(trial: Trial) -> list[Grid]:
    """Return a table per condition with a row per policy: means and half the 95 % t-intervals."""
    return [_condition_grid(condition, scores) for condition, scores in trial.scores.items()]


def _condition_grid(condition: Condition, by_policy: Mapping[str, Sequence[Score]]) -> Grid:
    names = [name for name in COLUMNS if _has_values(name, by_policy)]
    rows = [
        (policy, *(format_metric(name, scores) for name in names))
        for policy, scores in by_policy.items()
    ]
    first = next(iter(by_policy.values()))
    repeats = f", {len(first)} seeds, ± 95 % of the mean" if len(first) > 1 else ""
    note = f"{sum(score.requests for score in first):,} requests for each policy{repeats}"
    return Grid(condition.label, ("policy", *(METRICS[name].title for name in names)), rows, note)


def by_class(by_policy: Mapping[str, Sequence[Score]], title: str) -> Grid:
    """Return a table with a row per policy and class: means over repeats."""
    rows = []
    for policy, scores in by_policy.items():
        for name, first in scores[0].classes.items():
            repeats = [score.classes[name] for score in scores]
            rows.append(
                (
                    policy,
                    name,
                    _share([each.attainment for each in repeats]),
                    _share([each.mean_accuracy for each in repeats]),
                    f"{100 * first.floor:.2f}",
                    _share([each.utility for each in repeats]),
                    f"{sum(each.floor_violations for each in repeats):,}",
                )
            )
    columns = (
        "policy", "class", "on time, %", "accuracy, %", "floor, %", "utility, %", "below floor",
    )  # fmt: skip
    return Grid(title, columns, rows)


def by_prediction(trial: Trial) -> Grid | None:
    """Return a table of the share of batches within their prediction, by policy and variant.

    The batches of all runs are pooled. Returns None if no run has a calibration.
    """
    coverages: dict[tuple[str, str], list[Coverage]] = {}
    for run in trial.runs:
        if run.calibration is not None:
            named = {"all": run.calibration.overall, **run.calibration.variants}
            for variant, coverage in named.items():
                coverages.setdefault((run.score.policy, variant), []).append(coverage)
    rows = []
    for names in sorted(coverages, key=lambda names: trial.policies.index(names[0])):
        batches = sum(each.batches for each in coverages[names])
        within = sum(round(each.within.value * each.batches) for each in coverages[names])
        share = interval(wilson_interval(within, batches), "{:.2f}", scale=100)
        rows.append((*names, f"{batches:,}", share))
    title = f"Batches within the time predicted at {100 * NOMINAL:g} %"
    columns = ("policy", "variant", "batches", "within, % [95 % interval]")
    return Grid(title, columns, rows) if rows else None


def render_csv(trial: Trial) -> str:
    """Return a CSV line per run; metrics are unscaled: seconds, and shares from 0 to 1."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("kind", "load", "cv2", "slo_factor", "seed", "policy", "attainable", *METRICS))
    for run in trial.runs:
        condition = run.condition
        known = (condition.kind, condition.load, condition.cv2, condition.slo_factor, run.seed)
        values = (metric.get(run.score) for metric in METRICS.values())
        writer.writerow(
            (*known, run.score.policy, run.attainable, *values)
        )  # None becomes an empty field
    return text.getvalue()


def _has_values(name: str, by_policy: Mapping[str, Sequence[Score]]) -> bool:
    values = [METRICS[name].get(score) for scores in by_policy.values() for score in scores]
    if name in _ONLY_IF_ANY:
        return any(values)
    return any(value is not None for value in values)


def format_metric(name: str, scores: Sequence[Score]) -> str:
    """Return the mean of a metric over several runs as text."""
    metric = METRICS[name]
    return format_mean([metric.get(score) for score in scores], metric.scale, metric.digits)


def _share(values: Sequence[float | None]) -> str:
    return format_mean(values, 100, 2)


def format_mean(values: Sequence[float | None], scale: float, digits: int, sign: str = "") -> str:
    """Return the mean, and half its 95 % interval if there are several values, as text.

    With `sign` "+", positive values have a sign too.
    """
    mean = estimate(values)
    if mean is None:
        return NO_VALUE
    value = f"{scale * mean.value:{sign}z,.{digits}f}"
    return value if mean.half_width is None else f"{value} ±{scale * mean.half_width:.{digits}f}"

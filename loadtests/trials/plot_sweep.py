"""Plots over many conditions: attainment against accuracy, sweeps of a setting, and regret."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from loadtests.trials.metric import METRICS
from loadtests.trials.plot_style import (
    GREY,
    INK,
    PolicyStyle,
    legend,
    new_figure,
    policy_styles,
    scale_as_nines,
    set_titles,
    style_axes,
)
from loadtests.trials.repeats import estimate
from loadtests.trials.runs import Condition, Setting, Trial
from loadtests.trials.scores import Score

Scores = Mapping[Condition, Mapping[str, Sequence[Score]]]

AXIS_LABELS: Final[Mapping[Setting, str]] = {
    "load": "offered load",
    "cv2": "CV² of arrivals",
    "slo_factor": "deadline, in latencies",
}
DESCRIPTIONS: Final[Mapping[Setting, str]] = {
    "load": "offered load, in capacities of dense",
    "cv2": "squared coefficient of variation of the gaps between arrivals",
    "slo_factor": "deadline, in p95 latencies of the variant that the title names",
}

NINES: Final = frozenset({"attainment", "joint_attainment"})
"""Metrics whose misses are drawn on a logarithmic scale."""

_MAX_REGRET: Final = 3.0
"""Goal of the regret in percent: the best reported value (JITServe, NSDI'26)."""


def draw_tradeoff(trial: Trial, conditions: Sequence[Condition]) -> Figure:
    """Draw attainment against mean accuracy, a panel per condition (SuperServe, Figures 8 to 10).

    Marks are means over seeds, bars are 95 % t-intervals. Rows are by CV2 and columns by load if
    each pair of them occurs once. Raises ValueError if there are no conditions.
    """
    _require(conditions)
    styles = policy_styles(trial.policies)
    in_order = sorted(conditions, key=_key("cv2", "load"))
    shape = _shape([(condition.cv2, condition.load) for condition in in_order])
    figure = new_figure(max(9.0, 2.6 * shape[1] + 2.4), max(5.0, 2.35 * shape[0] + 1.1))
    panels = _panels(figure, shape, len(conditions), "accuracy on time, %")
    scores = trial.scores
    for panel, condition in zip(panels, in_order, strict=True):
        _scatter(panel, scores[condition], styles)
        name = condition.settings("cv2", "load") if len(conditions) > 1 else condition.label
        panel.set_title(name or condition.label, loc="left", fontsize=9, color=INK)
    figure.supylabel("on time, % of all requests", fontsize=10, color=INK)
    set_titles(figure, f"{trial.title}: attainment and accuracy",
               "Up and right is better. Each step up is ten times fewer misses. Accuracy: mean "
               f"over answers on time.{_bars(trial)}")  # fmt: skip
    legend(figure, styles)
    return figure


def draw_sweep(
    trial: Trial, conditions: Sequence[Condition], along: Setting, metric: str
) -> Figure:
    """Draw one of `METRICS` against a setting, with 95 % t-intervals over seeds.

    There is a panel for each group of `groups_along`. Raises ValueError if there is no group.
    """
    groups = groups_along(conditions, along)
    _require(groups)
    styles = policy_styles(trial.policies)
    scores = trial.scores
    shape = _shape(list(groups))
    figure = new_figure(max(9.0, 2.9 * shape[1] + 2.4), max(5.0, 2.3 * shape[0] + 1.1))
    panels = _panels(figure, shape, len(groups), AXIS_LABELS[along])
    for panel, group in zip(panels, groups.values(), strict=True):
        _lines(panel, {c: scores[c] for c in group}, along, metric, styles)
        panel.set_title(group[0].settings(*_others(along)), loc="left", fontsize=9, color=INK)
    if not METRICS[metric].is_share:
        panels[0].set_ylim(bottom=0)  # all panels share the axis
    figure.supylabel(METRICS[metric].title, fontsize=10, color=INK)
    set_titles(figure, f"{trial.title}: {METRICS[metric].title}",
               f"x axis: {DESCRIPTIONS[along]}.{_bars(trial)}")  # fmt: skip
    legend(figure, styles)
    return figure


def groups_along(
    conditions: Sequence[Condition], along: Setting
) -> dict[tuple[float | None, float | None], list[Condition]]:
    """Return groups of conditions that differ in one setting only, by the values of the other two.

    Groups with a single value of that setting are omitted. Groups and conditions are sorted.
    """
    down, across = _others(along)
    groups: dict[tuple[float | None, float | None], list[Condition]] = {}
    for condition in sorted(conditions, key=_key(down, across, along)):
        if getattr(condition, along) is not None:
            pair = (getattr(condition, down), getattr(condition, across))
            groups.setdefault(pair, []).append(condition)
    return {pair: group for pair, group in groups.items() if len(group) > 1}


def draw_regret(trial: Trial) -> Figure:
    """Draw the regret of each policy: the mean over seeds for each condition, and their median.

    Raises ValueError if no run has a bound.
    """
    styles = policy_styles(trial.policies)
    all_regrets: dict[str, list[float]] = {name: [] for name in trial.policies}
    for by_policy in trial.scores.values():
        for name, scores in by_policy.items():
            mean = estimate([score.regret for score in scores])
            if mean is not None:
                all_regrets[name].append(100 * mean.value)
    regrets = {name: values for name, values in all_regrets.items() if values}
    if not regrets:
        raise ValueError("there is no regret to plot: no run has a bound")
    names = sorted(regrets, key=lambda name: float(np.mean(regrets[name])), reverse=True)
    figure = new_figure(8, 1.3 + 0.36 * len(names))
    axes = figure.subplots()
    for position, name in enumerate(names):
        values = np.sort(regrets[name])
        style = styles[name]
        spread = (np.arange(len(values)) % 3 - 1) * (0.14 if len(values) > 1 else 0)
        axes.plot(values, position + spread, style.shape, color=style.colour, alpha=0.45,
                  markersize=4.5, markeredgewidth=0)  # fmt: skip
        axes.plot([np.median(values)] * 2, [position - 0.32, position + 0.32], color=style.colour,
                  linewidth=3, solid_capstyle="butt")  # fmt: skip
        axes.annotate(f"mean {np.mean(values):.1f}, worst {values[-1]:.1f}", (1.02, position),
                      xycoords=("axes fraction", "data"), va="center", fontsize=8.5,
                      color=INK)  # fmt: skip
    axes.set_xscale("symlog", linthresh=1, linscale=0.6)
    axes.xaxis.set_major_locator(FixedLocator([0, 1, 3, 10, 30, 100]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(min(-0.05, *(min(values) for values in regrets.values())), 115)
    axes.axvline(_MAX_REGRET, color=GREY, linewidth=1, linestyle="--", zorder=1)
    style_axes(axes)
    axes.set_yticks(range(len(names)), names)
    for name, label in zip(names, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if styles[name].is_evaluated else "normal")
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("regret: utility lost against the clairvoyant bound, %", color=INK)
    set_titles(figure, f"{trial.title}: regret",
               f"A mark per condition, bar: median; dashed: {_MAX_REGRET:g} %.")  # fmt: skip
    return figure


def _scatter(
    panel: Axes, by_policy: Mapping[str, Sequence[Score]], styles: Mapping[str, PolicyStyle]
) -> None:
    for name, scores in by_policy.items():
        attainment = estimate([score.attainment for score in scores])
        accuracy = estimate([score.mean_accuracy for score in scores])
        if attainment is None or accuracy is None:  # no answers on time
            continue
        style = styles[name]
        low, high = max(0.0, attainment.low), min(1.0, attainment.high)
        panel.errorbar(
            100 * accuracy.value,
            attainment.value,
            xerr=100 * (accuracy.half_width or 0.0),
            yerr=[[attainment.value - low], [high - attainment.value]],
            fmt=style.shape,
            color=style.colour,
            markersize=style.size,
            markeredgecolor="white",
            markeredgewidth=0.8,
            ecolor=(style.colour, 0.6),
            elinewidth=1.2,
            zorder=style.z_order,
        )
    scale_as_nines(panel)
    panel.margins(x=0.12)
    style_axes(panel)


def _lines(
    panel: Axes, scores: Scores, along: Setting, metric: str, styles: Mapping[str, PolicyStyle]
) -> None:
    definition = METRICS[metric]
    maximum = 1.0 if definition.is_share else np.inf
    scale = 1.0 if metric in NINES else definition.scale
    for name, style in styles.items():
        points = []
        for condition, by_policy in scores.items():
            if name in by_policy:
                mean = estimate([definition.get(score) for score in by_policy[name]])
                if mean is not None:
                    points.append((getattr(condition, along), mean.value, mean.half_width or 0.0))
        if points:
            x, y, half_width = np.array(points).T
            ends = np.clip([y - half_width, y + half_width], 0, maximum)
            panel.errorbar(
                x, y * scale, yerr=np.abs(ends - y) * scale, color=style.colour,
                linestyle=style.line, linewidth=style.width, marker=style.shape,
                markersize=style.size - 2.5, elinewidth=1, zorder=style.z_order,
            )  # fmt: skip
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if metric in NINES:
        scale_as_nines(panel)
    style_axes(panel)


def _bars(trial: Trial) -> str:
    return " Bars: 95 % intervals over seeds." if trial.is_repeated else ""


def _others(along: Setting) -> tuple[Setting, Setting]:
    settings: tuple[Setting, ...] = ("slo_factor", "load", "cv2")
    down, across = (setting for setting in settings if setting != along)
    return down, across


def _require(conditions: Sized) -> None:
    if not conditions:
        raise ValueError("there is nothing to plot: no condition matches")


def _key(*settings: Setting) -> Callable[[Condition], list[float]]:
    return lambda condition: [getattr(condition, setting) or 0.0 for setting in settings]


def _shape(pairs: Sequence[tuple[float | None, float | None]]) -> tuple[int, int]:
    """Return the number of rows and columns of the panels.

    They form a matrix if every pair of values occurs once; otherwise there are four in a row.
    """
    rows, columns = ({pair[index] for pair in pairs} for index in (0, 1))
    if len(rows) * len(columns) == len(pairs) == len(set(pairs)):
        return len(rows), len(columns)
    return -(-len(pairs) // 4), min(4, len(pairs))


def _panels(figure: Figure, shape: tuple[int, int], count: int, across: str) -> list[Axes]:
    """Return `count` panels; the lowest one of each column has the label of the x axis."""
    panels = list(figure.subplots(*shape, squeeze=False, sharey=True).flat)
    for index, panel in enumerate(panels):
        if index >= count:
            panel.remove()
        elif index + shape[1] >= count:
            panel.set_xlabel(across, fontsize=9, color=INK)
    return panels[:count]

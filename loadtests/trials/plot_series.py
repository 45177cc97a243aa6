"""Plots over time: comparisons of policies, and the choices of one policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from loadtests.trials.outcomes import Outcomes
from loadtests.trials.plot_style import (
    COLOURS,
    FAINT,
    GREY,
    INK,
    PolicyStyle,
    legend,
    new_figure,
    policy_styles,
    set_titles,
    style_axes,
)
from loadtests.trials.scores import Score, score
from loadtests.trials.series import Floats, Series, series

WINDOWS: Final = 60
"""Number of windows of a plot over time."""


def draw_timelines(
    trials: Sequence[Outcomes], accuracy: Mapping[str, float], policies: Sequence[str] = ()
) -> Figure:
    """Draw policies on the same workload, the evaluated one first (Proteus, Figure 4).

    The panels are goodput and demand, accuracy of answers, and violations, each with totals to the
    right. `accuracy` is by variant. `policies` are those of the other plots, in their order, so
    that styles are the same. Raises ValueError if there are no trials or if their workloads differ.
    """
    if not trials or len({(each.workload.name, len(each.workload)) for each in trials}) > 1:
        raise ValueError("there must be trials of the same workload, one per policy")
    workload = trials[0].workload
    window_s = workload.seconds / WINDOWS
    names = [each.policy for each in trials]
    all_styles = policy_styles(tuple(dict.fromkeys((*policies, *names))))
    styles = {name: all_styles[name] for name in names}
    lines = {each.policy: series(each, accuracy, window_s) for each in trials}
    scores = {each.policy: score(each, accuracy, window_s=window_s) for each in trials}
    figure = new_figure(12, 7.4)
    panels = figure.subplots(
        3, 2, sharex="col", gridspec_kw={"width_ratios": [3.4, 0.5 + 0.16 * len(trials)]}
    )
    first = lines[trials[0].policy]
    _area(panels[0, 0], first)
    rows: tuple[tuple[str, str, Callable[[Series], Floats], Callable[[Score], float | None]], ...]
    rows = (
        ("goodput, per s", "mean goodput, per s", lambda line: line.goodput_per_s,
         lambda each: each.goodput_per_s),
        ("accuracy of answers, %", "max. accuracy drop, %", lambda line: 100 * line.accuracy,
         lambda each: None if each.max_accuracy_drop is None else 100 * each.max_accuracy_drop),
        ("violations, %", "violations, %", lambda line: 100 * line.violations,
         lambda each: 100 * each.violation_ratio),
    )  # fmt: skip
    for (left, right), (over_time, title, by_window, total) in zip(panels, rows, strict=True):
        for name, line in lines.items():
            style = styles[name]
            left.plot(_middles(line), by_window(line), color=style.colour, linestyle=style.line,
                      linewidth=style.width, zorder=style.z_order)  # fmt: skip
        left.set_ylabel(over_time, color=INK, fontsize=9)
        left.set_xlim(0, workload.seconds)
        style_axes(left)
        _bars(right, {name: total(scores[name]) for name in lines}, styles)
        right.set_title(title, loc="left", fontsize=9, color=INK)
    panels[0, 0].set_ylim(bottom=0)
    panels[2, 0].set_ylim(-2, 102)
    panels[2, 0].set_xlabel("seconds", color=INK, fontsize=9)
    set_titles(figure, f"{workload.name}: {len(workload):,} requests",
               f"Grey: demand. Windows of {window_s:.3g} s, by arrival time. The accuracy drop is "
               "that of the worst window, relative to the most accurate variant.")  # fmt: skip
    legend(figure, styles, with_shapes=False)
    return figure


def draw_dynamics(outcomes: Outcomes, accuracy: Mapping[str, float]) -> Figure:
    """Draw arrivals, variants and batches of one policy over time (SuperServe, Figure 13).

    `accuracy` is by variant; the most accurate one is at the bottom and has the first colour.
    """
    workload = outcomes.workload
    over_time = series(outcomes, accuracy, workload.seconds / WINDOWS)
    middles = _middles(over_time)
    figure = new_figure(10, 7)
    rate, shares, sizes = figure.subplots(3, 1, sharex=True)
    _area(rate, over_time)
    rate.plot(middles, over_time.goodput_per_s, color=COLOURS[0], linewidth=1.8)
    rate.set_ylim(bottom=0)
    rate.set_ylabel("per s", color=INK, fontsize=9)
    rate.legend(
        handles=[
            Patch(facecolor=FAINT, edgecolor=GREY, linewidth=0.8, label="arrivals"),
            Line2D([], [], color=COLOURS[0], linewidth=1.8, label="on time"),
        ],
        loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9,
    )  # fmt: skip

    # every variant has a colour, so that it does not depend on the policy
    order = sorted(
        range(len(outcomes.variants)), key=lambda index: -accuracy[outcomes.variants[index]]
    )
    used = over_time.variant_shares.sum(axis=1) > 0
    stack = 100 * over_time.variant_shares[order]
    for level, index in enumerate(order):
        name = outcomes.variants[index]
        shares.bar(
            over_time.starts_s, stack[level], over_time.width_s, stack[:level].sum(axis=0),
            align="edge", color=COLOURS[level % len(COLOURS)], linewidth=0,
            label=f"{name} ({100 * accuracy[name]:.2f} %)" if used[index] else None,
        )  # fmt: skip
    shares.set_ylim(0, 100)
    shares.set_ylabel("answers by variant, %", color=INK, fontsize=9)
    if used.any():
        shares.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9,
                      reverse=True)  # fmt: skip

    _steps(sizes, over_time, over_time.batch_size, color=INK, linewidth=1.6)
    sizes.set_ylim(bottom=0)
    sizes.set_ylabel("samples in a batch", color=INK, fontsize=9)
    sizes.set_xlabel("seconds", color=INK, fontsize=9)
    sizes.set_xlim(0, workload.seconds)
    for axes in (rate, shares, sizes):
        style_axes(axes)
    set_titles(figure, f"{outcomes.policy} on {workload.name}",
               f"Windows of {over_time.width_s:.3g} s, by arrival time.")  # fmt: skip
    return figure


def _middles(line: Series) -> Floats:
    return line.starts_s + line.width_s / 2


def _area(axes: Axes, line: Series) -> None:
    axes.bar(line.starts_s, line.demand_per_s, line.width_s, align="edge", color=FAINT, linewidth=0,
             zorder=1)  # fmt: skip
    _steps(axes, line, line.demand_per_s, color=GREY, linewidth=0.8)


def _steps(axes: Axes, line: Series, values: Floats, *, color: str, linewidth: float) -> None:
    """Draw a step per window, including the full width of the last one."""
    starts_s = np.append(line.starts_s, line.starts_s[-1] + line.width_s)
    axes.step(starts_s, np.append(values, values[-1]), where="post", color=color,
              linewidth=linewidth, zorder=2)  # fmt: skip


def _bars(
    axes: Axes, values: Mapping[str, float | None], styles: Mapping[str, PolicyStyle]
) -> None:
    for position, (name, value) in enumerate(values.items()):
        if value is None:
            axes.annotate("-", (position, 0), ha="center", va="bottom", fontsize=8, color=INK)
            continue
        axes.bar(position, value, 0.75, color=styles[name].colour)
        text = f"{value:,.0f}" if value >= 100 else f"{round(value, 6):.2g}"
        axes.annotate(text, (position, value), xytext=(0, 2), textcoords="offset points",
                      ha="center", va="bottom", fontsize=7.5, color=INK)  # fmt: skip
    style_axes(axes)
    axes.margins(y=0.15)
    axes.set_xticks([])

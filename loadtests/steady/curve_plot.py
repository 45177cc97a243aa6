"""Draws goodput against load: a panel per loop, a line per policy and version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from loadtests.steady.curve import Curve, Loop
from loadtests.trials.plot_style import (
    INK,
    PolicyStyle,
    legend,
    new_figure,
    policy_styles,
    set_titles,
    style_axes,
)
from loadtests.trials.repeats import Estimate, estimate

PLOT_FILE: Final = "goodput.png"

_AXIS_LABELS: Final = {
    Loop.CLOSED: "clients in a closed loop",
    Loop.OPEN: "offered load, in capacities",
}


def draw_curves(curves: Sequence[Curve]) -> Figure:
    """Draw the goodput of all curves; the loose deadline is a pale line of the same colour.

    Raises ValueError if there are no points.
    """
    loops = [loop for loop in Loop if any(curve.levels(loop) for curve in curves)]
    if not loops:
        raise ValueError("there are no points to draw")
    names = {
        (curve.label, policy): f"{curve.label}: {policy}" if len(curves) > 1 else policy
        for curve in curves
        for policy in curve.policies
    }
    styles = policy_styles(list(names.values()))
    figure = new_figure(4.6 * len(loops) + 2.4, 4.6)
    panels = figure.subplots(1, len(loops), squeeze=False)[0]
    for panel, loop in zip(panels, loops, strict=True):
        for curve in curves:
            for policy in curve.policies:
                style = styles[names[curve.label, policy]]
                _draw_line(panel, curve, policy, loop, style, is_loose=True)
                _draw_line(panel, curve, policy, loop, style, is_loose=False)
        _set_scale(panel, sorted({level for curve in curves for level in curve.levels(loop)}))
        panel.set_xlabel(_AXIS_LABELS[loop], color=INK, fontsize=9)
        panel.set_ylim(bottom=0)
        style_axes(panel)
    panels[0].set_ylabel("goodput, answers in time per second", color=INK, fontsize=9)
    deadline = ", ".join(dict.fromkeys(f"{curve.deadline_ms:g} ms" for curve in curves))
    loose = ", ".join(dict.fromkeys(f"{curve.loose_deadline_ms / 1e3:g} s" for curve in curves))
    note = f"Pale: with a deadline of {loose}. Bars: 95 % of the mean over rounds."
    set_titles(figure, f"Goodput with a deadline of {deadline}, as clients see it", note)
    legend(figure, styles)
    return figure


def _draw_line(
    axes: Axes, curve: Curve, policy: str, loop: Loop, style: PolicyStyle, *, is_loose: bool
) -> None:
    means: dict[float, Estimate] = {}
    for level in curve.levels(loop):
        points = curve.rounds(policy, loop, level, is_loose=is_loose)
        mean = estimate([point.goodput_per_s for point in points])
        if mean is not None:
            means[level] = mean
    axes.errorbar(
        list(means),
        [mean.value for mean in means.values()],
        [mean.half_width or 0.0 for mean in means.values()],
        color=style.colour,
        linestyle=style.line,
        linewidth=style.width,
        marker="" if is_loose else style.shape,
        markersize=style.size,
        alpha=0.35 if is_loose else 1.0,
        zorder=style.z_order,
    )


def _set_scale(axes: Axes, levels: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(levels))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())

"""Plots of the calibration of latency predictions, by variant and over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtests.trials.calibration import NOMINAL, Calibration, Coverage
from loadtests.trials.plot_style import COLOURS, GREY, INK, new_figure, set_titles, style_axes


def draw_calibration(measured: Calibration, policy: str) -> Figure:
    """Draw the share of batches within their prediction, with 95 % intervals.

    The left panel is by variant, the right one over time. The dashed line is the nominal share.
    """
    coverage_of = {"all": measured.overall, **measured.variants}
    figure = new_figure(11, 1.9 + 0.34 * max(4, len(coverage_of)))
    by_variant, over_time = figure.subplots(1, 2, sharex=False, width_ratios=[1, 1.4])
    coverages = list(coverage_of.values())[::-1]
    _bars(by_variant, coverages, list(range(len(coverage_of))), is_upright=False)
    by_variant.set_yticks(
        range(len(coverage_of)),
        [f"{name}  ({each.batches:,} batches)" for name, each in reversed(coverage_of.items())],
    )
    by_variant.axvline(100 * NOMINAL, color=GREY, linewidth=1.2, linestyle="--", zorder=1)
    by_variant.set_ylim(-0.6, len(coverage_of) - 0.4)
    by_variant.set_xlabel("within the predicted time, %", color=INK, fontsize=9)

    _bars(
        over_time,
        [window.coverage for window in measured.windows],
        [window.start_s for window in measured.windows],
        is_upright=True,
    )
    over_time.axhline(100 * NOMINAL, color=GREY, linewidth=1.2, linestyle="--", zorder=1)
    over_time.set_xlabel("seconds", color=INK, fontsize=9)
    over_time.set_ylabel("within the predicted time, %", color=INK, fontsize=9)
    for axes in (by_variant, over_time):
        style_axes(axes)
    by_variant.grid(visible=False, axis="y")
    set_titles(
        figure,
        f"{policy}: batches within the time predicted at {100 * NOMINAL:g} %",
        "Bars: Wilson's 95 % intervals. Dashed: the nominal share. A batch at the 95th percentile "
        f"took {measured.overall.p95_ratio:.2f} times its prediction, the median "
        f"{measured.overall.median_ratio:.2f} times.",
    )
    return figure


def _bars(
    axes: Axes, coverages: Sequence[Coverage], positions: Sequence[float], *, is_upright: bool
) -> None:
    value, low, high = (
        100 * np.array([(c.within.value, c.within.low, c.within.high) for c in coverages]).T
    )
    half_width = [value - low, high - value]
    x, y = (positions, value) if is_upright else (value, positions)
    axes.errorbar(
        x, y, xerr=None if is_upright else half_width, yerr=half_width if is_upright else None,
        fmt="o", color=COLOURS[0], markersize=4 if is_upright else 6, ecolor=(COLOURS[0], 0.45),
        elinewidth=1.4, zorder=3,
    )  # fmt: skip

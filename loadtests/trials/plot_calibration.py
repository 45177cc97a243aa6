"""How well predicted times held, by variant and over time.

Drawn through matplotlib's objects with the Agg canvas: no window, no global state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtests.trials.calibration import NOMINAL, Calibration, Coverage
from loadtests.trials.plot_style import COLOURS, GREY, INK, new_figure, set_titles, style_axes


def draw_calibration(held: Calibration, policy: str) -> Figure:
    """Draw the share of batches within their prediction, with 95 % intervals.

    At the left by variant, at the right over time; the dashed line is what was promised.
    """
    named = {"all": held.overall, **held.variants}
    figure = new_figure(11, 1.9 + 0.34 * max(4, len(named)))
    by_variant, over_time = figure.subplots(1, 2, sharex=False, width_ratios=[1, 1.4])
    coverages = list(named.values())[::-1]
    _bars(by_variant, coverages, list(range(len(named))), is_upright=False)
    by_variant.set_yticks(
        range(len(named)),
        [f"{name}  ({of.batches:,} batches)" for name, of in reversed(named.items())],
    )
    by_variant.axvline(100 * NOMINAL, color=GREY, linewidth=1.2, linestyle="--", zorder=1)
    by_variant.set_ylim(-0.6, len(named) - 0.4)
    by_variant.set_xlabel("within the predicted time, %", color=INK, fontsize=9)

    _bars(
        over_time,
        [window.coverage for window in held.windows],
        [window.start_s for window in held.windows],
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
        f"{policy}: batches done within the time predicted at {100 * NOMINAL:g} %",
        "Bars: Wilson's 95 % intervals. Dashed: what was promised. A batch at the 95th percentile "
        f"took {held.overall.p95_ratio:.2f} times its prediction, the median "
        f"{held.overall.median_ratio:.2f} times.",
    )
    return figure


def _bars(
    axes: Axes, coverages: Sequence[Coverage], places: Sequence[float], *, is_upright: bool
) -> None:
    value, low, high = (
        100 * np.array([(of.within.value, of.within.low, of.within.high) for of in coverages]).T
    )
    half_width = [value - low, high - value]
    x, y = (places, value) if is_upright else (value, places)
    axes.errorbar(
        x, y, xerr=None if is_upright else half_width, yerr=half_width if is_upright else None, fmt="o",
        color=COLOURS[0], markersize=4 if is_upright else 6, ecolor=(COLOURS[0], 0.45),
        elinewidth=1.4, zorder=3,
    )  # fmt: skip

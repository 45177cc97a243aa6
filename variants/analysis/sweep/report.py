"""Render a sweep: a table, a comparison with published results, and two plots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from variants.analysis.sweep.sweep import PUBLISHED_RESULTS, Sweep, SweepPoint
from variants.catalog.catalog import Interval

CURVE = "sweep.png"
HISTOGRAM = "neurons.png"
_BINS = 60
_GROUPS = 6
"""Above this number of groups the table shows the sum and the histograms the widest groups."""


def table(sweep: Sweep) -> Table:
    """Return a table with a row for each pair of thresholds: accuracy in points against dense."""
    groups = list(sweep.moments)
    is_short = len(groups) <= _GROUPS
    layers = f"layers {' + '.join(groups)}" if is_short else f"of all {len(groups)} groups"
    caption = (
        f"Validation split: statistics of {sweep.statistics_samples} samples, accuracy on "
        f"{sweep.accuracy_samples} others, paired with dense, 95 % intervals. "
        f"Recovery: {sweep.recovery.epochs} epochs. Dense: {sweep.dense_parameters:,} parameters."
    )
    rendered = Table(title="Activation pruning by thresholds", caption=caption)
    for heading in (
        "|mean| <",
        "deviation <",
        escape(f"neurons kept ({layers})"),
        "parameters removed",
        "accuracy, pruned",
        "accuracy, recovered",
    ):
        rendered.add_column(heading, justify="right")
    for point in sweep.points:
        counts = point.kept.values()
        rendered.add_row(
            f"{point.mean_below:g}",
            f"{point.deviation_below:g}",
            " + ".join(str(count) for count in counts) if is_short else str(sum(counts)),
            f"{point.removed:.1%}",
            points(point.pruned),
            points(point.recovered),
        )
    return rendered


def verdicts(sweep: Sweep) -> list[str]:
    """Compare each published result with the point that removes the least, but at least as much.

    The last line is the control, if the grid has one: dense itself, trained for as long as the
    recovery, with nothing removed.
    """
    lines = []
    for published in PUBLISHED_RESULTS:
        point = sweep.least_removed(published.removed)
        lines.append(
            f"published: {published.removed:.0%} fewer at {100 * published.difference:+.2f}; "
            f"this sweep: {_describe_point(point)}"
        )
    if sweep.points and sweep.points[0].removed == 0:
        gain = points(sweep.points[0].recovered)
        lines.append(f"control: dense itself, trained for as long, nothing removed: {gain}")
    return lines


def points(interval: Interval) -> str:
    """Format a difference of shares in percentage points, as `-0.20 [-0.61, +0.21]`."""
    value, low, high = (100 * share for share in (interval.value, interval.low, interval.high))
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def plot(sweep: Sweep, folder: Path) -> tuple[Path, Path]:
    """Draw accuracy against parameters removed, and histograms of the neurons' statistics.

    Returns the two PNG files in `folder`: `sweep.png` and `neurons.png`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    curve, histogram = folder / CURVE, folder / HISTOGRAM
    _curve(sweep).savefig(curve, dpi=150)
    _histogram(sweep).savefig(histogram, dpi=150)
    return curve, histogram


def _describe_point(point: SweepPoint | None) -> str:
    if point is None:
        return "no point of the grid removes as much"
    return (
        f"{point.removed:.1%} fewer at {points(point.recovered)}, "
        f"{points(point.pruned)} without recovery"
    )


def _curve(sweep: Sweep) -> Figure:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    removed = [100 * point.removed for point in sweep.points]
    for label, marker, intervals in (
        ("pruned", "o", [point.pruned for point in sweep.points]),
        (f"recovered, {sweep.recovery.epochs} epochs", "s", [p.recovered for p in sweep.points]),
    ):
        values = np.array([100 * interval.value for interval in intervals])
        low = values - [100 * interval.low for interval in intervals]
        high = [100 * interval.high for interval in intervals] - values
        axes.errorbar(removed, values, yerr=(low, high), fmt=marker, capsize=2, label=label)
    axes.scatter(
        [100 * published.removed for published in PUBLISHED_RESULTS],
        [100 * published.difference for published in PUBLISHED_RESULTS],
        marker="*",
        s=120,
        color="black",
        zorder=3,
        label="published, no interval",
    )
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter("{x:+g}")
    axes.set_xlabel("parameters removed, %")
    axes.set_ylabel("accuracy minus dense, points (linear within ±1)")
    axes.legend(loc="lower left")
    return figure


def _histogram(sweep: Sweep) -> Figure:
    widest = sorted(sweep.moments, key=lambda name: -len(sweep.moments[name].mean))[:_GROUPS]
    drawn = {name: moments for name, moments in sweep.moments.items() if name in widest}
    figure = Figure(figsize=(9, 2.6 * len(drawn)), layout="constrained")
    grid = figure.subplots(len(drawn), 2, squeeze=False)
    for row, (name, moments) in zip(grid, drawn.items(), strict=True):
        for axes, values, quantity in (
            (row[0], np.abs(moments.mean), "|mean|"),
            (row[1], moments.deviation, "deviation"),
        ):
            axes.hist(values, bins=_BINS)
            axes.set_xlabel(f"{quantity} of a neuron, after its activation")
            axes.set_ylabel(f"neurons of layer {name}")
    return figure

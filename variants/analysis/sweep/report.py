"""A sweep for people: a table, the figures to beat, and two plots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from variants.analysis.sweep.sweep import TO_BEAT, Sweep, SweepPoint
from variants.catalog.catalog import Interval

CURVE = "sweep.png"
HISTOGRAM = "neurons.png"
_BINS = 60
_GROUPS = 6
"""Of more groups, the table shows the sum, and the histograms the widest ones."""


def table(sweep: Sweep) -> Table:
    """One row for each pair of thresholds; the accuracy in points against dense."""
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
        left = point.kept.values()
        rendered.add_row(
            f"{point.mean_below:g}",
            f"{point.deviation_below:g}",
            " + ".join(str(count) for count in left) if is_short else str(sum(left)),
            f"{point.removed:.1%}",
            points(point.pruned),
            points(point.recovered),
        )
    return rendered


def verdicts(sweep: Sweep) -> list[str]:
    """Set each published figure beside the mildest of our points that removes as much.

    Then the control, if the grid has one: what training on does for dense, nothing removed.
    """
    lines = []
    for published in TO_BEAT:
        theirs = f"published: {published.removed:.0%} fewer at {100 * published.difference:+.2f}"
        point = sweep.mildest(published.removed)
        lines.append(f"{theirs}; ours: {_ours(point)}")
    if sweep.points and sweep.points[0].removed == 0:
        gained = points(sweep.points[0].recovered)
        lines.append(f"control: dense itself, trained on for as long, nothing removed: {gained}")
    return lines


def points(interval: Interval) -> str:
    """Render a difference of shares in percentage points, as `-0.20 [-0.61, +0.21]`."""
    value, low, high = (100 * share for share in (interval.value, interval.low, interval.high))
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def plot(sweep: Sweep, folder: Path) -> tuple[Path, Path]:
    """Draw parameters removed against accuracy, and the histograms of the neurons' statistics.

    Returns the two PNG files, `sweep.png` and `neurons.png`, in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    curve, histogram = folder / CURVE, folder / HISTOGRAM
    _curve(sweep).savefig(curve, dpi=150)
    _histogram(sweep).savefig(histogram, dpi=150)
    return curve, histogram


def _ours(point: SweepPoint | None) -> str:
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
        [100 * published.removed for published in TO_BEAT],
        [100 * published.difference for published in TO_BEAT],
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
    shown = {name: moments for name, moments in sweep.moments.items() if name in widest}
    figure = Figure(figsize=(9, 2.6 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), 2, squeeze=False)
    for row, (name, moments) in zip(grid, shown.items(), strict=True):
        for axes, values, what in (
            (row[0], np.abs(moments.mean), "|mean|"),
            (row[1], moments.deviation, "deviation"),
        ):
            axes.hist(values, bins=_BINS)
            axes.set_xlabel(f"{what} of a neuron, after its activation")
            axes.set_ylabel(f"neurons of layer {name}")
    return figure

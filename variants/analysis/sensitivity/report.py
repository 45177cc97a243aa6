"""Render a network's sensitivity: a table, a plot, and shares to paste into a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from variants.analysis.sensitivity.budget import Allocation, allocate
from variants.analysis.sensitivity.layers import Sensitivity
from variants.analysis.sweep.report import points
from variants.catalog import artifact
from variants.catalog.coverage import describe_untouched, percent

PLOT: Final = "sensitivity.png"
JSON: Final = "sensitivity.json"
_MARKERS: Final = "osD^vP*X"


def table(sensitivity: Sensitivity) -> Table:
    """Return a table with a row for each layer: accuracy in points against dense."""
    rendered = Table(
        title=f"{sensitivity.model}: accuracy when one layer loses its smallest weights",
        caption=(
            f"Points against dense ({sensitivity.accuracy.value:.2%}), each layer alone, without "
            f"training; {sensitivity.samples:,} validation samples, paired, 95 % intervals."
        ),
    )
    for heading in ("layer", "kind"):
        rendered.add_column(heading)
    rendered.add_column("weights", justify="right", no_wrap=True)
    for sparsity in _sparsities(sensitivity):
        rendered.add_column(f"{sparsity:.0%}", justify="right")
    for curve in sensitivity.curves:
        cells = (points(point.difference) for point in curve.points[1:])
        rendered.add_row(Text(curve.layer), curve.kind, f"{curve.weights:,}", *cells)
    return rendered


def sentences(sensitivity: Sensitivity) -> list[str]:
    """Return a line on the weights that were not measured; none if all were."""
    if not sensitivity.uncovered:
        return []
    number = sum(each.weights for each in sensitivity.uncovered)
    return [
        f"not measured: {percent(number / sensitivity.weights)} of {sensitivity.weights:,} "
        f"weights: {describe_untouched(sensitivity.uncovered, most=None)}"
    ]


def write_files(sensitivity: Sensitivity, folder: Path) -> tuple[Path, Path]:
    """Write `sensitivity.json` and the plot `sensitivity.png` into the folder, and return both."""
    folder.mkdir(parents=True, exist_ok=True)
    artifact.write_record(folder / JSON, sensitivity)
    draw(sensitivity).savefig(folder / PLOT, dpi=150)
    return folder / JSON, folder / PLOT


def draw(sensitivity: Sensitivity) -> Figure:
    """Draw accuracy against sparsity, with a line for each layer."""
    height = 4.5 + 0.12 * len(sensitivity.curves)
    figure = Figure(figsize=(9, min(height, 12)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, curve in enumerate(sensitivity.curves):
        values = np.array([100 * point.difference.value for point in curve.points])
        low = values - [100 * point.difference.low for point in curve.points]
        high = [100 * point.difference.high for point in curve.points] - values
        axes.errorbar(
            [100 * point.sparsity for point in curve.points],
            values,
            yerr=(low, high),
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            linewidth=1.2,
            capsize=2,
            label=f"{curve.layer} ({curve.kind}, {curve.weights:,})",
        )
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter("{x:+g}")
    axes.set_xlabel("weights of the layer that are zero, %")
    axes.set_ylabel("accuracy minus dense, points (linear within ±1)")
    axes.set_title(f"{sensitivity.model}: each layer alone, without training", loc="left")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def to_shares_yaml(
    sensitivity: Sensitivity, *, target_percent: float | None, max_drop_points: float | None
) -> str:
    """Allocate within limits in percent and points; return the shares as YAML."""
    allocation = allocate(
        sensitivity,
        target_share=None if target_percent is None else target_percent / 100,
        max_drop=None if max_drop_points is None else max_drop_points / 100,
    )
    return allocation_yaml(allocation)


def allocation_yaml(allocation: Allocation) -> str:
    """Render an allocation as the `shares` of a recipe's step, with the totals in a comment."""
    shares = {layer: round(share, 4) for layer, share in allocation.shares.items()}
    return (
        f"# {allocation.removed:.1%} of the weights; expected loss "
        f"{100 * allocation.expected_drop:.2f} points before recovery\n"
        + yaml.safe_dump({"shares": shares}, sort_keys=False)
    )


def _sparsities(sensitivity: Sensitivity) -> list[float]:
    return [point.sparsity for point in sensitivity.curves[0].points[1:]]

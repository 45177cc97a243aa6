"""Plot of the Pareto frontier: accuracy against latency, one panel per batch size.

Uses the object-oriented interface of matplotlib with the Agg canvas: no window, no global state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox, BboxBase

from variants.catalog.catalog import Catalog, Interval
from variants.catalog.comparison import (
    Cards,
    batch_sizes,
    cards_on,
    frontier_at,
    hardware_keys,
    latencies_at,
)

# Blue of the colour-blind safe palette of Okabe and Ito, and grey. Marker shapes differ too.
_FRONTIER_COLOUR: Final = "#0072B2"
_DOMINATED_COLOUR: Final = "#8A8A8A"
_TEXT_COLOUR: Final = "#222222"
_GRID_COLOUR: Final = "#E6E6E6"

_LOG_FROM: Final = 3
"""The latency axis is logarithmic if the slowest and the fastest differ by this factor."""

_LabelPlace: TypeAlias = tuple[
    float, float, Literal["left", "center", "right"], Literal["top", "bottom"]
]

_LABEL_PLACES: Final[tuple[_LabelPlace, ...]] = (
    (9, 7, "left", "bottom"), (-9, 7, "right", "bottom"),
    (9, -7, "left", "top"), (-9, -7, "right", "top"),
    (0, 16, "center", "bottom"), (0, -16, "center", "top"),
)  # fmt: skip
"""Candidate positions of a label: offset from its point in points, and alignment; best first."""
_OUTSIDE, _ON_LABEL, _AMBIGUOUS, _ON_POINT, _ON_BAR = 10_000, 1000, 100, 10, 1
"""Costs of a label that leaves its panel, covers another label, is nearest to another point, covers
a point, or covers an error bar."""


def plot_frontier(catalog: Catalog, path: Path, panels: Sequence[int] = ()) -> None:
    """Draw the frontier into a PNG file. Raises like `draw_frontier`."""
    draw_frontier(catalog, panels).savefig(path, format="png")


def draw_frontier(catalog: Catalog, panels: Sequence[int] = ()) -> Figure:
    """Draw accuracy, with its 95 % interval, against median latency.

    `panels` are the batch sizes to draw, by default the smallest and the largest measured. If the
    catalog has report cards for several kinds of hardware, the newest is drawn. Raises `ValueError`
    if no variant has a report card.
    """
    keys = hardware_keys(catalog)
    if not keys:
        raise ValueError("there is nothing to plot: no variant has a report card yet")
    cards = cards_on(catalog, keys[0])
    sizes = batch_sizes(cards)
    panels = panels or tuple(dict.fromkeys((sizes[0], sizes[-1])))

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.04)
    figure = Figure(figsize=(1.2 + 5.2 * len(panels), 5.2), dpi=160, layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for index, (panel, size) in enumerate(zip(axes, panels, strict=True)):
        _draw_panel(panel, cards, size)
        if index == 0:
            panel.set_ylabel("accuracy on test samples, %", color=_TEXT_COLOUR)
    card = next(iter(cards.values()))
    figure.suptitle(
        f"{catalog.model.name} on {card.hardware.processor}, "
        f"{card.hardware.threads} thread{'s' if card.hardware.threads > 1 else ''}: "
        "accuracy against latency",
        x=0.01, ha="left", fontsize=13, fontweight="bold", color=_TEXT_COLOUR,
    )  # fmt: skip
    figure.supxlabel(
        "Up and left is better. Blue: Pareto frontier. Shaded: another variant is at least as "
        "accurate and as fast. Bars: 95 % intervals, "
        f"{card.test_samples:,} test samples.",
        x=0.01, ha="left", fontsize=8.5, color="#555555",
    )  # fmt: skip
    for panel, size in zip(axes, panels, strict=True):
        _shade(panel, [_position(cards, size, name) for name in frontier_at(cards, size)])
    figure.draw_without_rendering()  # fixes the layout, which label placement depends on
    for panel, size in zip(axes, panels, strict=True):
        _label_points(panel, cards, size)
    return figure


def _draw_panel(axes: Axes, cards: Cards, size: int) -> None:
    latencies = latencies_at(cards, size)
    best = frontier_at(cards, size)
    for name, latency in latencies.items():
        accuracy = cards[name].accuracy
        is_best = name in best
        colour = _FRONTIER_COLOUR if is_best else _DOMINATED_COLOUR
        axes.errorbar(
            latency.p50_s * 1e3,
            accuracy.value * 100,
            yerr=[
                [(accuracy.value - accuracy.low) * 100],
                [(accuracy.high - accuracy.value) * 100],
            ],
            fmt="o" if is_best else "D",
            markersize=9 if is_best else 7,
            color=colour,
            markerfacecolor=colour if is_best else "white",
            markeredgewidth=1.6,
            ecolor=(colour, 0.5),
            elinewidth=1.6,
            zorder=3 if is_best else 2,
        )
    _style_axes(axes, [latency.p50_s * 1e3 for latency in latencies.values()])
    axes.set_title(f"batch {size}", loc="left", fontsize=11, color=_TEXT_COLOUR)
    axes.set_xlabel("median latency of a batch, ms", color=_TEXT_COLOUR)


def _shade(axes: Axes, best: Sequence[tuple[float, float]]) -> None:
    """Draw the frontier as a staircase to the right edge, and shade the dominated area."""
    right, bottom = axes.get_xlim()[1], axes.get_ylim()[0]
    x, y = zip(*sorted(best), strict=True)
    x, y = (*x, right), (*y, y[-1])
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    axes.step(x, y, where="post", color=_FRONTIER_COLOUR, linewidth=1.4, alpha=0.6, zorder=1.5)
    axes.fill_between(
        x, y, bottom, step="post", color=_FRONTIER_COLOUR, alpha=0.06, linewidth=0, zorder=0.5
    )


def _style_axes(axes: Axes, latencies_ms: Sequence[float]) -> None:
    axes.margins(x=0.22, y=0.14)
    if max(latencies_ms) >= _LOG_FROM * min(latencies_ms):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color=_GRID_COLOUR, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_TEXT_COLOUR, length=0, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#BBBBBB")


def _label_points(axes: Axes, cards: Cards, size: int) -> None:
    """Label each point with the name of its variant, at the position with the lowest cost."""
    best = frontier_at(cards, size)
    points = {name: _position(cards, size, name) for name in latencies_at(cards, size)}
    markers = {name: _marker_box(axes, point) for name, point in points.items()}
    occupied = [(_ON_POINT, marker) for marker in markers.values()]
    occupied += [
        (_ON_BAR, _bar_box(axes, cards[name].accuracy, x)) for name, (x, _) in points.items()
    ]
    for name, point in points.items():
        labels = [_label(axes, name, point, place, name in best) for place in _LABEL_PLACES]
        boxes = [label.get_window_extent() for label in labels]
        costs = [
            _cost(box, occupied, axes.bbox) + (_nearest(box, markers) != name) * _AMBIGUOUS
            for box in boxes
        ]
        chosen = costs.index(min(costs))
        occupied.append((_ON_LABEL, boxes[chosen]))
        for index, label in enumerate(labels):
            if index != chosen:
                label.remove()


def _label(
    axes: Axes, name: str, point: tuple[float, float], place: _LabelPlace, is_best: bool
) -> Annotation:
    x, y, horizontal, vertical = place
    return axes.annotate(
        name,
        point,
        xytext=(x, y),
        textcoords="offset points",
        ha=horizontal,
        va=vertical,
        fontsize=9.5,
        color=_FRONTIER_COLOUR if is_best else "#666666",
        fontweight="bold" if is_best else "normal",
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        zorder=4,
    )


def _nearest(box: Bbox, markers: Mapping[str, Bbox]) -> str:
    """Return the name of the point whose marker is nearest to this box."""
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    return min(
        markers,
        key=lambda name: math.hypot(
            (markers[name].x0 + markers[name].x1) / 2 - x,
            (markers[name].y0 + markers[name].y1) / 2 - y,
        ),
    )


def _position(cards: Cards, size: int, name: str) -> tuple[float, float]:
    """Return the point of a variant: median latency in milliseconds and accuracy in percent."""
    return latencies_at(cards, size)[name].p50_s * 1e3, cards[name].accuracy.value * 100


def _bar_box(axes: Axes, accuracy: Interval, x: float) -> Bbox:
    return Bbox(axes.transData.transform([(x, accuracy.low * 100), (x, accuracy.high * 100)]))


def _marker_box(axes: Axes, point: tuple[float, float]) -> Bbox:
    x, y = axes.transData.transform(point)
    return Bbox.from_extents(x - 12, y - 12, x + 12, y + 12)


def _cost(box: Bbox, occupied: Sequence[tuple[int, Bbox]], panel: BboxBase) -> int:
    cost = _OUTSIDE if box.x0 < panel.x0 or box.x1 > panel.x1 else 0
    return cost + sum(weight for weight, other in occupied if box.overlaps(other))

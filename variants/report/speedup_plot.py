"""Plot of the speedup over dense by batch size.

Uses the object-oriented interface of matplotlib with the Agg canvas: no window, no global state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from variants.catalog.catalog import Catalog
from variants.catalog.comparison import batch_sizes, cards_on, hardware_keys

# The colour-blind safe palette of Okabe and Ito. Marker shapes distinguish the variants too.
_COLOURS: Final = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SHAPES: Final = ("o", "s", "D", "^", "v", "P", "X", "*")
_TEXT_COLOUR: Final = "#222222"


def plot_speedups(catalog: Catalog, path: Path) -> None:
    """Draw the speedups into a PNG file. Raises like `draw_speedups`."""
    draw_speedups(catalog).savefig(path, format="png")


def draw_speedups(catalog: Catalog) -> Figure:
    """Draw the speedup of each variant over dense, with its 95 % interval, by batch size.

    If the catalog has report cards for several kinds of hardware, the newest is drawn. Raises
    `ValueError` if no variant has a report card.
    """
    keys = hardware_keys(catalog)
    if not keys:
        raise ValueError("there is nothing to plot: no variant has a report card yet")
    cards = cards_on(catalog, keys[0])

    figure = Figure(figsize=(9, 4.6), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axhline(1, color="#999999", linewidth=1)
    for index, (name, card) in enumerate(cards.items()):
        speedups = [latency.speedup for latency in card.latencies]
        axes.errorbar(
            [latency.batch_size for latency in card.latencies],
            [speedup.value for speedup in speedups],
            yerr=[
                [speedup.value - speedup.low for speedup in speedups],
                [speedup.high - speedup.value for speedup in speedups],
            ],
            label=name,
            color=_COLOURS[index % len(_COLOURS)],
            marker=_SHAPES[index % len(_SHAPES)],
            markersize=5,
            linewidth=1.3,
            capsize=2.5,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(batch_sizes(cards)))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("batch size", color=_TEXT_COLOUR)
    axes.set_ylabel("speedup over dense", color=_TEXT_COLOUR)
    axes.set_title(
        f"{catalog.model.name} on {next(iter(cards.values())).hardware.processor}: "
        "speedup over dense in its faster runtime",
        loc="left", fontsize=12, fontweight="bold", color=_TEXT_COLOUR,
    )  # fmt: skip
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
    return figure

"""The style of plots: a policy has the same colour, shape and line in all of them.

Plots use the matplotlib objects with the Agg canvas: no window and no global state. The colours are
distinguishable for colour-blind readers; shapes and lines repeat the information.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from loadtests.trials.series import Floats
from serving.routing.policy import POLICIES

INK: Final = "#222222"
FAINT: Final = "#E6E6E6"
GREY: Final = "#8A8A8A"

COLOURS: Final = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",  # Okabe and Ito
    "#882255", "#999933", "#8A8A8A", "#332288",  # Tol's muted, and grey
)  # fmt: skip
SHAPES: Final = ("o", "D", "^", "v", "s", "P", "X", "<", ">", "p", "h", "*", "d")
LINES: Final[tuple[Any, ...]] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))

_MIN_MISS: Final = 1e-4
"""Share of misses at which 0 is drawn on the logarithmic scale of misses."""


@dataclass(frozen=True, slots=True)
class PolicyStyle:
    """The style in which a policy is drawn."""

    colour: str
    shape: str
    line: Any
    """`linestyle` of matplotlib."""
    is_evaluated: bool

    @property
    def width(self) -> float:
        """Line width in points."""
        return 2.4 if self.is_evaluated else 1.4

    @property
    def size(self) -> float:
        """Marker size in points."""
        return 10 if self.is_evaluated else 6.5

    @property
    def z_order(self) -> float:
        """Drawing order: the evaluated policy is below the others, because it is larger."""
        return 2.8 if self.is_evaluated else 3


def policy_styles(policies: Sequence[str]) -> dict[str, PolicyStyle]:
    """Return the style of each policy; the first one is the evaluated policy.

    The style of a policy of the service does not depend on the other policies. Other names, such as
    a policy with settings, get the following styles in their order.
    """
    others = [name for name in policies if name not in POLICIES]
    index_of = {name: index for index, name in enumerate((*POLICIES, *others))}
    return {
        name: PolicyStyle(
            colour=COLOURS[index_of[name] % len(COLOURS)],
            shape=SHAPES[index_of[name] % len(SHAPES)],
            line=LINES[index_of[name] % len(LINES)],
            is_evaluated=number == 0,
        )
        for number, name in enumerate(policies)
    }


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; sizes are in inches."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes) -> None:
    """Hide unnecessary spines and ticks, and draw a light grid."""
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")


def scale_as_nines(axes: Axes) -> None:
    """Scale the y axis, shares 0 to 1, so that each step is ten times fewer misses."""
    axes.set_yscale("function", functions=(_to_nines, _from_nines))
    axes.yaxis.set_major_locator(FixedLocator((0.0, 0.5, 0.9, 0.99, 0.999, 1.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(-0.15, 1 + _MIN_MISS * (1 - 10**-0.25))


def _to_nines(share: Floats) -> Floats:
    nines: Floats = -np.log10(np.maximum(1 - share, -_MIN_MISS / 2) + _MIN_MISS)
    return nines


def _from_nines(nines: Floats) -> Floats:
    shares: Floats = 1 + _MIN_MISS - 10.0**-nines
    return shares


def set_titles(figure: Figure, title: str, note: str = "") -> None:
    """Set the title above the figure and the explanation below it."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    if note:
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color="#555555")


def legend(figure: Figure, styles: Mapping[str, PolicyStyle], *, with_shapes: bool = True) -> None:
    """Add a legend of the policies to the right of the panels."""
    handles = [
        Line2D(
            [], [], label=name, color=style.colour, linestyle=style.line, linewidth=style.width,
            marker=style.shape if with_shapes else "", markersize=style.size,
        )
        for name, style in styles.items()
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9,
                  handlelength=3.2)  # fmt: skip


def to_png(figure: Figure) -> bytes:
    """Return the figure as PNG."""
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()

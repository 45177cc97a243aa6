"""How plots look: a policy has the same colour, shape and line in all of them.

Colours are told apart by everyone; shapes and lines say the same once more.
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
"""Where misses are on a logarithmic scale, none at all lies where this many would."""


@dataclass(frozen=True, slots=True)
class PolicyStyle:
    """How a policy is drawn."""

    colour: str
    shape: str
    line: Any
    """As matplotlib's `linestyle`."""
    is_ours: bool

    @property
    def width(self) -> float:
        """Of its lines, in points."""
        return 2.4 if self.is_ours else 1.4

    @property
    def size(self) -> float:
        """Of its marks, in points."""
        return 10 if self.is_ours else 6.5

    @property
    def layer(self) -> float:
        """Ours lies below the others: it is larger, so that none hides another."""
        return 2.8 if self.is_ours else 3


def policy_styles(policies: Sequence[str]) -> dict[str, PolicyStyle]:
    """Return how each policy is drawn; the first is ours.

    A policy of the service always looks the same, whichever it is drawn with; others, such as a
    policy with settings, take what follows in their order.
    """
    others = [name for name in policies if name not in POLICIES]
    places = {name: place for place, name in enumerate((*POLICIES, *others))}
    return {
        name: PolicyStyle(
            colour=COLOURS[places[name] % len(COLOURS)],
            shape=SHAPES[places[name] % len(SHAPES)],
            line=LINES[places[name] % len(LINES)],
            is_ours=index == 0,
        )
        for index, name in enumerate(policies)
    }


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this many inches that needs no window."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes) -> None:
    """Take away what says nothing, and draw a faint grid behind."""
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")


def scale_as_nines(axes: Axes) -> None:
    """Scale the upright axis, of shares 0 to 1: each step is ten times fewer misses."""
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
    """Write what the figure shows above it, and how to read it below."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    if note:
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color="#555555")


def legend(figure: Figure, drawn: Mapping[str, PolicyStyle], *, with_shapes: bool = True) -> None:
    """Name the policies at the right, outside of every panel."""
    handles = [
        Line2D(
            [], [], label=name, color=look.colour, linestyle=look.line, linewidth=look.width,
            marker=look.shape if with_shapes else "", markersize=look.size,
        )
        for name, look in drawn.items()
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9,
                  handlelength=3.2)  # fmt: skip


def to_png(figure: Figure) -> bytes:
    """Render."""
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()

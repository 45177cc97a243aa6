"""Render an explanation as a table with sentences, or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from variants.analysis.explain.explain import Explanation, OperatorRow

_HEADINGS = ("layer or (operator)", "dense", "ms", "variant", "ms", "share", "against dense")


def table(explanation: Explanation, max_rows: int = 20) -> Table:
    """Return a table with the `max_rows` rows that take the most time, the longest first."""
    rendered = Table(title=_title(explanation), caption=_caption(explanation))
    for number, heading in enumerate(_HEADINGS):
        rendered.add_column(heading, justify="left" if number in (0, 1, 3) else "right")
    for row in explanation.rows[:max_rows]:
        rendered.add_row(*map(Text, _cells(row)))
    return rendered


def sentences(explanation: Explanation) -> list[str]:
    """Return a line for each reason, its code first."""
    return [f"{reason.code}: {reason.text}" for reason in explanation.reasons] + _limits(
        explanation
    )


def markdown(explanation: Explanation) -> str:
    """Return the whole explanation as Markdown."""
    lines = [f"## {_title(explanation)}", ""]
    lines += [f"- **{reason.code}**: {reason.text}" for reason in explanation.reasons]
    lines += [f"- {line}" for line in _limits(explanation)]
    lines += ["", _line(_HEADINGS), _line(["---"] * len(_HEADINGS))]
    lines += [_line(_cells(row)) for row in explanation.rows]
    return "\n".join((*lines, "", _caption(explanation), ""))


def _limits(explanation: Explanation) -> list[str]:
    """Return lines on what the steps changed, and on weights that no reason is about."""
    lines = [f"weights changed by {step.describe()}" for step in explanation.coverage]
    if explanation.unexplained:
        lines.append(f"no reason is about: {', '.join(explanation.unexplained)}")
    return lines


def _title(explanation: Explanation) -> str:
    speedup = explanation.speedup
    return (
        f"{explanation.variant} at batch {explanation.batch_size}: {speedup.value:.2f}x "
        f"[{speedup.low:.2f}, {speedup.high:.2f}] of dense's speed"
    )


def _caption(explanation: Explanation) -> str:
    source = "from the report card" if explanation.is_from_card else "measured now"
    call, dense_call = (1e3 * s for s in (explanation.seconds, explanation.dense_seconds))
    return (
        f"A call takes {call:.3g} ms, dense {dense_call:.3g} ms in its faster runtime ({source}, "
        f"{explanation.hardware}). Times by layer are profiled in the runtime that serves the "
        f"model; shares are of the variant's operators."
    )


def _cells(row: OperatorRow) -> list[str]:
    return [
        row.name,
        ", ".join(row.dense_kinds),
        f"{1e3 * row.dense_s:.3f}" if row.dense_kinds else "",
        ", ".join(row.kinds),
        f"{1e3 * row.seconds:.3f}" if row.kinds else "",
        f"{row.share:.0%}",
        f"{row.dense_s / row.seconds:.2f}x" if row.dense_kinds and row.seconds else "",
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

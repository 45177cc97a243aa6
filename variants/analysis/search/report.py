"""Render a search result: a table, sentences, and recipes as YAML for a project file."""

from __future__ import annotations

from pathlib import Path

import yaml
from rich.table import Table

from variants.analysis.search.goal import Goal
from variants.analysis.search.result import ParetoRow, SearchResult
from variants.analysis.sweep.report import points
from variants.catalog import artifact
from variants.catalog.catalog import Interval


def table(result: SearchResult) -> Table:
    """Return a table with a row for each candidate of the Pareto set, the least cost first."""
    rendered = Table(
        title=f"{result.model}: {describe_goal(result.goal)}",
        caption=(
            "Accuracy in points against dense, paired, on the "
            f"{result.confirmation_samples:,} validation samples of the confirmation part and the "
            f"{result.selection_samples:,} of the selection part. Parameters, bytes and speed "
            "relative to dense."
        ),
    )
    rendered.add_column("variant", no_wrap=True)
    for heading in ("confirmed", "selected", "parameters", "bytes", "speed"):
        rendered.add_column(heading, justify="right")
    rendered.add_column("verdict")
    for row in result.rows:
        rendered.add_row(
            f"[bold]{row.name}[/]" if row.name == result.chosen else row.name,
            "" if row.confirmation is None else points(row.confirmation),
            points(row.selection),
            f"{row.parameters / result.dense_parameters:.1%}",
            f"{row.bytes / result.dense_bytes:.1%}",
            _ratio(row.speedup),
            row.verdict,
        )
    return rendered


def sentences(result: SearchResult) -> list[str]:
    """Describe the choice or the nearest miss, its confidence, and what was not tried."""
    lines = [_describe_choice(result)]
    if result.look:
        lines.append(
            f"The confirmation part took no part in the selection. This is look {result.look} at "
            f"it, with intervals of {result.look_confidence:.1%}."
        )
    lines.append(
        f"{result.known} candidates known, {result.tried} of them built in this run"
        + ("." if result.is_finished else "; not all were tried: run the search again to continue.")
    )
    lines += [f"not tried or not built: {name}: {why}" for name, why in result.skipped.items()]
    return lines


def describe_goal(goal: Goal) -> str:
    """Describe a goal in words."""
    limits = []
    if goal.max_drop is not None:
        limits.append(f"a drop of at most {100 * goal.max_drop:g} points ({goal.confidence:.0%})")
    if goal.latency_s is not None:
        limits.append(f"at most {1e3 * goal.latency_s:g} ms at batch {goal.batch_size}")
    objective = f"the least {goal.least}" if goal.least else "the best accuracy"
    return f"{objective} within {' and '.join(limits)}"


def recipes_yaml(result: SearchResult) -> str:
    """Return the recipes of the Pareto set as in a project file, with their measurements."""
    if not result.rows:
        return "recipes: {}\n"
    blocks = ["recipes:"]
    for row in result.rows:
        steps = [
            {"technique": step.technique}
            | ({"parameters": dict(step.parameters)} if step.parameters else {})
            for step in row.recipe
        ]
        text = yaml.safe_dump({row.name: steps}, sort_keys=False)
        blocks.append(f"  # {_summarize(row, result)}")
        blocks += [f"  {line}" for line in text.splitlines()]
    return "\n".join(blocks) + "\n"


def write_recipes(result: SearchResult, path: Path) -> None:
    """Write `recipes_yaml` into a file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    artifact.write_file(path, recipes_yaml(result).encode())


def _describe_choice(result: SearchResult) -> str:
    if result.chosen is not None:
        row = next(row for row in result.rows if row.name == result.chosen)
        return f"{describe_goal(result.goal)}: {row.name}, {_summarize(row, result)}"
    if result.nearest is None:
        return f"{describe_goal(result.goal)}: nothing could be tried"
    near = result.nearest
    return (
        f"{describe_goal(result.goal)}: no candidate; the nearest is {near.name}, "
        f"{_summarize(near, result)}"
    )


def _summarize(row: ParetoRow, result: SearchResult) -> str:
    on, difference = (
        ("selection", row.selection)
        if row.confirmation is None
        else ("confirmation", row.confirmation)
    )
    return (
        f"{row.verdict}: {points(difference)} points ({on} part), "
        f"{row.parameters / result.dense_parameters:.1%} of the parameters, "
        f"{row.bytes / result.dense_bytes:.1%} of the bytes, {_ratio(row.speedup)} as fast, "
        f"{1e3 * row.latency_s:.3g} ms at batch {result.goal.batch_size}"
    )


def _ratio(speedup: Interval) -> str:
    return f"{speedup.value:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}]"

"""What a search found, for people and for project files: a table, sentences, recipes as YAML."""

from __future__ import annotations

from pathlib import Path

import yaml
from rich.table import Table

from variants.analysis.search.goal import Goal
from variants.analysis.search.result import Row, SearchResult
from variants.analysis.sweep.report import points
from variants.catalog import artifact
from variants.catalog.catalog import Interval


def table(found: SearchResult) -> Table:
    """One row for each candidate of the Pareto set, the least of the cost first."""
    rendered = Table(
        title=f"{found.model}: {goal_words(found.goal)}",
        caption=(
            "Accuracy in points against dense, paired, on the "
            f"{found.confirmation_samples:,} validation samples that confirm and the "
            f"{found.selection_samples:,} others that selected; of dense: parameters, bytes, speed."
        ),
    )
    rendered.add_column("variant", no_wrap=True)
    for heading in ("confirmed", "selected", "parameters", "bytes", "speed"):
        rendered.add_column(heading, justify="right")
    rendered.add_column("verdict")
    for row in found.rows:
        rendered.add_row(
            f"[bold]{row.name}[/]" if row.name == found.chosen else row.name,
            "" if row.confirmation is None else points(row.confirmation),
            points(row.selection),
            f"{row.parameters / found.dense_parameters:.1%}",
            f"{row.bytes / found.dense_bytes:.1%}",
            _ratio(row.speedup),
            row.verdict,
        )
    return rendered


def sentences(found: SearchResult) -> list[str]:
    """Say what was chosen, or what came nearest; how sure that is; and what was not tried."""
    lines = [_answer(found)]
    if found.look:
        lines.append(
            f"The part of validation that confirms has chosen nothing; look {found.look} at it, "
            f"intervals of {found.look_confidence:.1%}."
        )
    lines.append(
        f"{found.known} candidates known, {found.tried} of them made in this run"
        + ("." if found.is_finished else "; not all could be tried: run it again to go on.")
    )
    lines += [f"not tried or not made: {name}: {why}" for name, why in found.skipped.items()]
    return lines


def goal_words(goal: Goal) -> str:
    """Say a goal in words."""
    limits = []
    if goal.max_drop is not None:
        limits.append(f"a drop of at most {100 * goal.max_drop:g} points ({goal.confidence:.0%})")
    if goal.latency_s is not None:
        limits.append(f"at most {1e3 * goal.latency_s:g} ms at batch {goal.batch_size}")
    sought = f"the least {goal.least}" if goal.least else "the best accuracy"
    return f"{sought} within {' and '.join(limits)}"


def recipes_yaml(found: SearchResult) -> str:
    """Return the recipes of the Pareto set as a project file has them, with what each does."""
    if not found.rows:
        return "recipes: {}\n"
    blocks = ["recipes:"]
    for row in found.rows:
        steps = [
            {"technique": step.technique}
            | ({"parameters": dict(step.parameters)} if step.parameters else {})
            for step in row.recipe
        ]
        text = yaml.safe_dump({row.name: steps}, sort_keys=False)
        blocks.append(f"  # {_summary(row, found)}")
        blocks += [f"  {line}" for line in text.splitlines()]
    return "\n".join(blocks) + "\n"


def write_recipes(found: SearchResult, path: Path) -> None:
    """Write `recipes_yaml` into a file, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    artifact.write_file(path, recipes_yaml(found).encode())


def _answer(found: SearchResult) -> str:
    if found.chosen is not None:
        row = next(row for row in found.rows if row.name == found.chosen)
        return f"{goal_words(found.goal)}: {row.name}, {_summary(row, found)}"
    if found.nearest is None:
        return f"{goal_words(found.goal)}: nothing could be tried"
    near = found.nearest
    return (
        f"{goal_words(found.goal)}: no candidate does; nearest came {near.name}, "
        f"{_summary(near, found)}"
    )


def _summary(row: Row, found: SearchResult) -> str:
    on, difference = (
        ("selection", row.selection)
        if row.confirmation is None
        else ("confirmation", row.confirmation)
    )
    return (
        f"{row.verdict}: {points(difference)} points ({on} part), "
        f"{row.parameters / found.dense_parameters:.1%} of the parameters, "
        f"{row.bytes / found.dense_bytes:.1%} of the bytes, {_ratio(row.speedup)} as fast, "
        f"{1e3 * row.latency_s:.3g} ms at batch {found.goal.batch_size}"
    )


def _ratio(speedup: Interval) -> str:
    return f"{speedup.value:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}]"

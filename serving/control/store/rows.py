"""Turns rows of the tables into records of `serving.control.state`, and back into text."""

from __future__ import annotations

import json
from typing import Final

from pydantic import TypeAdapter
from sqlalchemy import RowMapping

from serving.control.state import GateReport, Generation, HistoryEntry, Job, LogLine, ReplicaReport
from variants.catalog.recipe import Recipe

_RECIPE: Final = TypeAdapter[Recipe](Recipe)


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as JSON."""
    return _RECIPE.dump_json(recipe).decode()


def recipe_of(text: str) -> Recipe:
    """Return the recipe in a column."""
    return _RECIPE.validate_json(text)


def generation_of(row: RowMapping) -> Generation:
    """Return the generation in a row of `generations`."""
    gate = row["gate"]
    return Generation(
        variant=row["variant"],
        number=row["number"],
        state=row["state"],
        recipe=recipe_of(row["recipe"]),
        digest=row["digest"],
        created_at=row["created_at"],
        published_at=row["published_at"],
        gate=None if gate is None else GateReport.model_validate_json(gate),
        probe_s=row["probe_s"],
        error=row["error"],
        since=row["since"],
    )


def job_of(row: RowMapping) -> Job:
    """Return the job in a row of `jobs`, without an estimate."""
    recipe = row["recipe"]
    return Job(
        id=row["id"],
        kind=row["kind"],
        variant=row["variant"],
        generation=row["generation"],
        status=row["status"],
        stage=row["stage"],
        share=row["share"],
        recipe=None if recipe is None else recipe_of(recipe),
        actor=row["actor"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        heartbeat_at=row["heartbeat_at"],
        attempts=row["attempts"],
        cancel_requested=row["cancelled_by"] is not None,
        force=row["force"],
        reason=row["reason"],
        error=row["error"],
        stage_seconds=json.loads(row["stage_seconds"]),
    )


def history_of(row: RowMapping) -> HistoryEntry:
    """Return the entry in a row of `history`."""
    return HistoryEntry(**row)


def report_of(row: RowMapping) -> ReplicaReport:
    """Return the report in a row of `reports`."""
    return ReplicaReport(**row)


def log_line_of(row: RowMapping) -> LogLine:
    """Return the line in a row of `job_log`."""
    return LogLine(number=row["number"], at=row["at"], text=row["text"])

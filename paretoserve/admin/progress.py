"""The progress of a job in the terminal: its stages, and the time that is left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from paretoserve.admin.tables import seconds
from paretoserve.terminal import errors


def show_progress(jobs: Iterator[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Show a job until it has ended, on stderr; return its last state.

    Stages that are over stay on the screen with the time that they took.
    """
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        console=errors,
        transient=True,
    )
    job: Mapping[str, Any] = {}
    printed: set[str] = set()
    with progress:
        task = progress.add_task("queued", total=1.0, left="")
        for job in jobs:
            for stage, took_s in job["stage_seconds"].items():
                if stage not in printed and stage != job["stage"]:
                    printed.add(stage)
                    progress.console.print(Text(f"{stage:<12}{seconds(took_s):>10}"))
            left = job["estimate_s"]
            progress.update(
                task,
                description=f"{job['stage']:<12}",
                completed=job["share"],
                left="" if left is None else f"about {seconds(left)} left",
            )
    return job

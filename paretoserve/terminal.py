"""Printing of the command line and of the Python API: results to stdout, progress to stderr."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

console = Console()
errors = Console(stderr=True)


def progress_bars(*, is_shown: bool = True) -> Progress:
    """Return progress bars on stderr, because stdout is for results, which may be JSON."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=errors if is_shown else Console(quiet=True),
        disable=not is_shown,
    )


def print_lines(lines: Iterable[str]) -> None:
    """Print each line literally: brackets and colons in it are not markup."""
    for line in lines:
        console.print(Text(line))

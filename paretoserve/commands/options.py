"""What the verbs of `paretoserve` have in common: arguments, and how they print."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from loadtests.trials.options import FOLDER

DEFAULT_CATALOG = Path("catalog")
CATALOG = click.option(
    "--catalog",
    type=FOLDER,
    default=None,
    help="The folder of variants. [default: catalog]",
)
THREADS = click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="What a replica computes with, `hosts.cpus` of the settings: cards are for so many.",
)
PROJECT = click.argument("project", type=click.Path(path_type=Path, exists=True, dir_okay=False))

console = Console()
errors = Console(stderr=True)


def progress_bars() -> Progress:
    """Return bars on stderr: stdout is for what was asked for, which may be JSON."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=errors,
    )


def print_lines(lines: Iterable[str]) -> None:
    """Print text as it is: brackets and colons in it are no markup."""
    for line in lines:
        console.print(Text(line))


def given(**options: object) -> dict[str, object]:
    """Return the options that the command line has."""
    return {name: value for name, value in options.items() if value is not None}

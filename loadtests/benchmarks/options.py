"""Command line options that the benchmarks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

markdown = click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")


def rounds(default: int) -> Callable[[Command], Command]:
    """Return the option for the number of rounds."""
    return click.option(
        "--rounds",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Runs of each case; cases alternate.",
    )


def seconds(default: float) -> Callable[[Command], Command]:
    """Return the option for the duration of one measurement, in seconds."""
    return click.option(
        "--seconds",
        type=float,
        default=default,
        show_default=True,
        help="Duration of each measurement, in seconds.",
    )

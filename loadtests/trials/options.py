"""Command-line options shared by the load tests and `paretoserve`."""

from __future__ import annotations

import math
from pathlib import Path

import click

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


def finite(context: click.Context, option: click.Parameter, number: float | None) -> float | None:
    """Reject infinity and NaN, which range checks accept: no comparison with NaN is true."""
    if number is not None and not math.isfinite(number):
        raise click.BadParameter(f"{number} is not a finite number.", context, option)
    return number

"""Command line options that the load tests share with `paretoserve`."""

from __future__ import annotations

import math
from pathlib import Path

import click

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


def finite(context: click.Context, option: click.Parameter, number: float | None) -> float | None:
    """Reject infinity and NaN. NaN passes every range check, because no comparison holds for it."""
    if number is not None and not math.isfinite(number):
        raise click.BadParameter(f"{number} is not a finite number.", context, option)
    return number

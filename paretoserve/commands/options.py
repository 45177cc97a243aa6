"""Arguments and options that several verbs of `paretoserve` share."""

from __future__ import annotations

from pathlib import Path

import click

from loadtests.trials.options import FOLDER
from variants.catalog.device import DEVICES

DEFAULT_CATALOG = Path("catalog")
CATALOG = click.option(
    "--catalog",
    type=FOLDER,
    default=None,
    help="Folder of the variants. [default: catalog]",
)
THREADS = click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Compute threads of a replica: `hosts.cpus` of the settings. Report cards hold for it.",
)
DEVICE = click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="cpu",
    show_default=True,
    envvar="PARETOSERVE_HOSTS__DEVICE",
    show_envvar=True,
    help="Device to measure on: `hosts.device` of the settings. tensorrt is for ONNX variants; "
    "torch variants run on CUDA there.",
)
PROJECT = click.argument("project", type=click.Path(path_type=Path, exists=True, dir_okay=False))


def set_options(**options: object) -> dict[str, object]:
    """Return the options that are set on the command line: those that are not None."""
    return {name: value for name, value in options.items() if value is not None}

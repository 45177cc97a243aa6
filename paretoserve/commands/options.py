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
QUICK = click.option(
    "--quick",
    is_flag=True,
    help="Measure three batch sizes for a short time. The report cards say so.",
)


def _sizes(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 7 for part in parts):
        raise click.BadParameter("must be numbers with commas, as 1,8,64")
    sizes = [int(part) for part in parts]
    if sizes != sorted(set(sizes)) or sizes[0] < 1:
        raise click.BadParameter("must be at least 1 and ascend, as 1,8,64")
    return tuple(sizes)


BATCH_SIZES = click.option(
    "--batch-sizes",
    metavar="LIST",
    callback=_sizes,
    help="Batch sizes to measure, as 1,8,64. [default: 1,2,4,8,16,32,64; with --quick 1,8,64]",
)
PROJECT = click.argument("project", type=click.Path(path_type=Path, exists=True, dir_okay=False))


def set_options(**options: object) -> dict[str, object]:
    """Return the options that are set on the command line: those that are not None."""
    return {name: value for name, value in options.items() if value is not None}

"""Checks and measures what runs on a GPU, in at most ten minutes.

    python -m loadtests.gpu [--catalog catalog] [--seconds 540] [--out FILE]

In this order: products of one layer, whose answers are checked before they are timed; layers as
served; variants of the catalog on each device, compared with the CPU. The exit status is 1 without
a GPU, and if an answer is wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click
import torch
from rich.console import Console

from loadtests.benchmarks.machine import describe_machine
from loadtests.gpu import catalog as end_to_end
from loadtests.gpu import products
from loadtests.gpu.deadline import Deadline
from loadtests.trials.grid import show
from loadtests.trials.options import FILE, FOLDER
from variants.runtime.gpu.algorithms import AlgorithmCache
from variants.runtime.gpu.device import cusparselt_version, describe_gpu, require_cuda

LARGEST_DIFFERENCE: Final = 0.05
"""Of the outputs of a variant on a GPU from those on the CPU: BF16, FP16 and INT8 round in another
way there."""


@click.command()
@click.option("--catalog", type=FOLDER, default=Path("catalog"), show_default=True)
@click.option("--seconds", type=float, default=540.0, show_default=True, help="Longest duration.")
@click.option("--out", type=FILE, help="Also write the tables as Markdown to this file.")
def main(catalog: Path, seconds: float, out: Path | None) -> None:
    """Check and measure what runs on a GPU."""
    console = Console()
    try:
        require_cuda()
    except ValueError as error:
        click.echo(f"nothing was measured: {error}", err=True)
        sys.exit(1)
    deadline = Deadline(seconds)
    cache = AlgorithmCache()
    console.print(f"{describe_gpu()}, torch {torch.__version__}; {describe_machine()}")
    grids = []
    failures = []
    with torch.inference_mode():
        if cusparselt_version():
            alone = list(products.measure_alone(deadline, cache))
            failures += products.wrong(alone)
            grids.append(products.alone_grid(alone))
            show(grids[-1:], console, as_markdown=True)
        grids.append(products.served_grid(list(products.measure_served(deadline, cache))))
        show(grids[-1:], console, as_markdown=True)
    try:
        served = list(end_to_end.measure_catalog(catalog, deadline))
    except ValueError as error:
        console.print(f"no variants were measured: {error}", soft_wrap=True)
    else:
        failures += [
            f"{each.variant} by {each.provider} differs by {each.difference:.1e} of its size"
            for each in served
            if not each.difference <= LARGEST_DIFFERENCE
        ]
        grids.append(end_to_end.catalog_grid(served))
        show(grids[-1:], console, as_markdown=True)
    if out is not None:
        out.write_text("\n\n".join(grid.to_markdown() for grid in grids) + "\n")
    for measurement in deadline.left_out:
        console.print(f"no time was left for: {measurement}", soft_wrap=True)
    for failure in failures:
        console.print(f"wrong: {failure}", soft_wrap=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

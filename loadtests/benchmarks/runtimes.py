"""Compares the variants of a catalog as they are served, and torch variants layer by layer.

    python -m loadtests.benchmarks.runtimes catalog [--batch-size 1] [--markdown]

All of them run in turn, once per round, so that a change of the machine's speed meets all, and each
finds the caches as the others leave them. Times are medians over the rounds, and with one thread
CPU times. Intervals of 95 % come from resampled rounds. A variant that is a chain of layers runs in
one call of the kernels; the line "layer by layer" is the same network called by torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from loadtests.benchmarks import options
from loadtests.benchmarks.kernels import ratio
from loadtests.benchmarks.machine import describe_machine
from loadtests.trials.grid import Grid, show
from loadtests.trials.options import FOLDER
from variants.catalog.catalog import Catalog, Model, Variant
from variants.catalog.hardware import hardware
from variants.catalog.sample_request import read_batch
from variants.runtime.rounds import choose_clock
from variants.runtime.runner import Tensors, load_runner
from variants.runtime.sparse.network import sparse_layers, use_kernels
from variants.runtime.torch import load_rebuilt

BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
LEAST_ROUNDS: Final = 5


def runners(folder: Path, threads: int) -> dict[str, Callable[[Tensors], object]]:
    """Return what is compared of the catalog in a folder, by name; dense first."""
    catalog = Catalog.load(folder)
    compared: dict[str, Callable[[Tensors], object]] = {}
    for name, variant in catalog.variants.items():
        compared[name] = load_runner(folder, catalog.model, variant, threads=threads)
        if variant.runner == "torch":
            compared[f"{name}, layer by layer"] = _layer_by_layer(
                folder, catalog.model, variant, threads
            )
    return compared


def _layer_by_layer(
    folder: Path, model: Model, variant: Variant, threads: int
) -> Callable[[Tensors], object]:
    """Return the network of a torch variant with the kernels of its report card."""
    network, plan, tensors = load_rebuilt(folder / variant.name, model, variant)
    card = variant.report_card(hardware(threads).key)
    layers = sparse_layers(network, plan, tensors)
    use_kernels(network, layers, None if card is None else card.kernels)
    names = [spec.name for spec in model.inputs]

    def run(inputs: Tensors) -> object:
        with torch.inference_mode():
            return network(*(torch.from_numpy(inputs[each]) for each in names))

    return run


def time_in_turns(
    compared: Mapping[str, Callable[[Tensors], object]],
    inputs: Tensors,
    seconds: float,
    clock: Callable[[], float],
) -> dict[str, NDArray[np.float64]]:
    """Return the times of each in every round, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in compared}
    for run in compared.values():
        run(inputs)
    end = time.perf_counter() + seconds * len(compared)
    while len(times["dense"]) < LEAST_ROUNDS or time.perf_counter() < end:
        for name, run in compared.items():
            start = clock()
            run(inputs)
            times[name].append((clock() - start) * 1e3)
    return {name: np.array(each) for name, each in times.items()}


@click.command()
@click.argument("folder", type=FOLDER)
@click.option(
    "--batch-size", "batch_sizes", type=click.IntRange(min=1), multiple=True, default=BATCH_SIZES,
    help="Repeatable.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@options.seconds(0.3)
@options.markdown
def main(
    folder: Path, batch_sizes: Sequence[int], threads: int, seconds: float, as_markdown: bool
) -> None:
    """Measure all variants of the catalog in FOLDER."""
    before = describe_machine()
    model, compared = Model.load(folder), runners(folder, threads)
    times = {
        size: time_in_turns(
            compared, read_batch(folder, model, size), seconds, choose_clock(threads)
        )
        for size in batch_sizes
    }
    table = []
    for name in compared:
        cells = [f"{np.median(times[size][name]):.3g}" for size in batch_sizes]
        speedups = [ratio(times[size]["dense"], times[size][name]) for size in batch_sizes]
        table.append((name, *cells))
        if name != "dense":
            table.append(("", *(f"{each:.2f}" for each in speedups)))
    grid = Grid(
        f"p50 in ms, and how many times as fast as dense, {threads} thread(s)",
        ["variant", *(f"{size}" for size in batch_sizes)],
        table,
        f"{before} before.",
    )
    show([grid], Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    main()

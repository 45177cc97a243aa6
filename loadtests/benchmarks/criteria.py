"""Does knowing activations pay? One-shot sparsity by several criteria, nothing trained afterwards.

    python -m loadtests.benchmarks.criteria PROJECT... [--markdown]

Each criterion masks a fresh copy of each project's model; the difference to dense is paired on the
test split. The papers claim an order: SparseGPT, then Wanda, then magnitude; random is a control.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import Progress

from loadtests.benchmarks.throughput import machine
from loadtests.trials.grid import Grid, show
from variants.build.check import CheckedProject, load_checked_project
from variants.catalog.catalog import Interval
from variants.catalog.recipe import Step
from variants.compression.techniques import resolve_all
from variants.measurement.evaluation import accuracy_difference
from variants.model.state import CompressionState
from variants.model.training import predict
from variants.report.text import interval

CRITERIA: Final = ("random", "magnitude", "wanda", "sparsegpt")
SHARES: Final = (0.5, 0.7, 0.8, 0.9)
SAMPLES: Final = 1024
"""Of the train split, for criteria that look at data."""


def patterns(criterion: str) -> dict[str, Step]:
    """Return one step for each pattern of zeros, by the pattern's name."""
    same = {"criterion": criterion, "samples": SAMPLES}
    found = {"2:4": Step(technique="sparse-n:m", parameters=same)}
    for share in SHARES:
        parameters = {"share": share, **same}
        found[f"{share:.0%}"] = Step(technique="unstructured", parameters=parameters)
    return found


def compare(checked: CheckedProject, progress: Progress) -> dict[str, dict[str, Interval]]:
    """Return accuracy minus dense's on the test split, by pattern and then criterion."""
    network, datasets = checked.network, checked.datasets
    dense = CompressionState(network, checked.interface, dense=network)
    test = datasets.test
    expected = predict(network, test.samples).numpy()
    found: dict[str, dict[str, Interval]] = {}
    for criterion in progress.track(CRITERIA, description=checked.project.name):
        for pattern, step in patterns(criterion).items():
            (technique,) = resolve_all((step,))
            masked = technique.apply(dense, datasets.training_data, progress).network
            predicted = predict(masked, test.samples).numpy()
            difference = accuracy_difference(predicted, expected, test.labels)
            found.setdefault(pattern, {})[criterion] = difference
    return found


def rows(model: str, found: Mapping[str, Mapping[str, Interval]]) -> list[tuple[str, ...]]:
    """Return a row for each pattern, with a column for each criterion, in points."""
    return [
        (model, pattern, *(interval(by[criterion], "{:+.2f}", scale=100) for criterion in CRITERIA))
        for pattern, by in found.items()
    ]


@click.command()
@click.argument("projects", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
def main(projects: tuple[Path, ...], as_markdown: bool) -> None:
    """Compare criteria at 2:4 and at several shares of zeros, on the models of PROJECTS."""
    lines: list[tuple[str, ...]] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for project in projects:
            checked = load_checked_project(project)
            lines += rows(checked.project.name, compare(checked, progress))
    note = (
        f"Points of accuracy against dense, paired, on the test split; {SAMPLES:,} samples of the "
        "train split tell the criteria. The share is of each layer, for wanda of each row, for "
        "sparsegpt of each 128 columns; 2:4 leaves out layers that it does not fit and heads of "
        f"fewer than 16 outputs. {machine()}."
    )
    columns = ("model", "zeros", *CRITERIA)
    show([Grid("Criteria of sparsity", columns, lines, note)], Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    main()

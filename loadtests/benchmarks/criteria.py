"""Compares pruning criteria: accuracy after one-shot sparsity, without training afterwards.

    python -m loadtests.benchmarks.criteria PROJECT... [--markdown]

Each criterion masks a new copy of each project's model. Differences to dense are paired on the
test split. The papers claim the order SparseGPT, Wanda, magnitude; random is the control.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import Progress

from loadtests.benchmarks import options
from loadtests.benchmarks.machine import describe_machine
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
"""Shares of zeros in unstructured sparsity."""
SAMPLES: Final = 1024
"""Samples of the train split, for criteria that use data."""


def sparsity_steps(criterion: str) -> dict[str, Step]:
    """Return one step for each sparsity pattern, by the name of the pattern."""
    common = {"criterion": criterion, "samples": SAMPLES}
    steps = {"2:4": Step(technique="sparse-n:m", parameters=common)}
    for share in SHARES:
        parameters = {"share": share, **common}
        steps[f"{share:.0%}"] = Step(technique="unstructured", parameters=parameters)
    return steps


def compare(checked: CheckedProject, progress: Progress) -> dict[str, dict[str, Interval]]:
    """Return the accuracy minus that of dense on the test split, by pattern and criterion."""
    network, datasets = checked.network, checked.datasets
    dense = CompressionState(network, checked.interface, dense=network)
    test = datasets.test
    expected = predict(network, test.samples).numpy()
    differences: dict[str, dict[str, Interval]] = {}
    for criterion in progress.track(CRITERIA, description=checked.project.name):
        for pattern, step in sparsity_steps(criterion).items():
            (technique,) = resolve_all((step,))
            masked = technique.apply(dense, datasets.training_data, progress).network
            predicted = predict(masked, test.samples).numpy()
            difference = accuracy_difference(predicted, expected, test.labels)
            differences.setdefault(pattern, {})[criterion] = difference
    return differences


def rows(model: str, differences: Mapping[str, Mapping[str, Interval]]) -> list[tuple[str, ...]]:
    """Return a row for each pattern with a column for each criterion, in percentage points."""
    return [
        (model, pattern, *(interval(by[criterion], "{:+.2f}", scale=100) for criterion in CRITERIA))
        for pattern, by in differences.items()
    ]


@click.command()
@click.argument("projects", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.markdown
def main(projects: tuple[Path, ...], as_markdown: bool) -> None:
    """Compare pruning criteria at 2:4 and at several shares of zeros on the models of PROJECTS."""
    lines: list[tuple[str, ...]] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for project in projects:
            checked = load_checked_project(project)
            lines += rows(checked.project.name, compare(checked, progress))
    note = (
        "Accuracy minus that of dense, in percentage points, paired on the test split. Criteria "
        f"use {SAMPLES:,} samples of the train split. The share of zeros holds for each layer; for "
        "wanda for each row, for sparsegpt for each block of 128 columns. 2:4 excludes layers of "
        f"unsuitable shape and heads with fewer than 16 outputs. {describe_machine()}."
    )
    columns = ("model", "zeros", *CRITERIA)
    show([Grid("Pruning criteria", columns, lines, note)], Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    main()

"""Measures how pruning results of the demo model vary with the seed of its training.

    seed ─▶ train dense ─▶ apply each recipe ─▶ test accuracy minus that of this dense, paired

    python -m loadtests.benchmarks.seeds [--markdown]

Differences are means over seeds with Student's 95 % interval. The control is dense, trained for as
many further epochs as the recipes recover; pruning in rounds trains two epochs more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import click
import torch
from rich.console import Console
from rich.progress import Progress

from examples.fashion_mnist import data, model
from examples.fashion_mnist.train import SCHEDULE
from loadtests.benchmarks import options
from loadtests.benchmarks.machine import describe_machine
from loadtests.trials.grid import Grid, show
from loadtests.trials.repeats import estimate
from variants.catalog.recipe import Recipe, Step
from variants.compression.pruning.neurons import count_parameters
from variants.compression.techniques import resolve_all
from variants.model.dataset import Datasets
from variants.model.loading import describe_interface
from variants.model.state import CompressionState
from variants.model.training import accuracy, fit

CONTROL: Final = "control: dense, trained further"
SHARES: Final = (0.62, 0.74, 0.90, 0.95)
"""Shares of the neurons that recipes remove."""


@dataclass(frozen=True)
class RecipeResult:
    """The result of one recipe on the model of one seed."""

    removed_share: float
    """Removed parameters, as a share of those of dense."""
    accuracy_difference: float
    """Accuracy minus that of dense, from -1 to 1."""


def recipes(epochs: int) -> dict[str, Recipe]:
    """Return the recipes by name. All end with the same recovery; some also train before it."""
    by_name: dict[str, Recipe] = {CONTROL: (_recover(epochs),)}
    for share in SHARES:
        pruning = Step(technique="activation-pruning", parameters={"share": share})
        by_name[f"activation-pruning, {share:.0%}"] = (pruning, _recover(epochs))
    for share in SHARES:
        parameters = {"share": share, "rounds": 3, "recover": {"epochs": 1}}
        pruning = Step(technique="structured", parameters=parameters)
        by_name[f"structured in 3 rounds, {share:.0%}"] = (pruning, _recover(epochs))
    return by_name


def _recover(epochs: int) -> Step:
    return Step(technique="recover", parameters={"epochs": epochs, "distill": 0.5})


def run_seed(
    seed: int, datasets: Datasets, by_name: Mapping[str, Recipe], progress: Progress
) -> tuple[float, dict[str, RecipeResult]]:
    """Train with a seed and apply every recipe; return the accuracy of dense and the results."""
    torch.manual_seed(seed)
    network = model.network()
    schedule = SCHEDULE.model_copy(update={"seed": seed})
    fit(network, datasets.train, schedule, progress, label=f"seed {seed}: training")
    interface = describe_interface(network, datasets.validation.samples, datasets.axes)
    dense = CompressionState(network, interface, dense=network)
    dense_accuracy = accuracy(network, datasets.test)
    results = {}
    for name, recipe in by_name.items():
        state = dense
        for technique in resolve_all(recipe):
            state = technique.apply(state, datasets.training_data, progress)
        results[name] = RecipeResult(
            removed_share=1 - count_parameters(state.network) / count_parameters(network),
            accuracy_difference=accuracy(state.network, datasets.test) - dense_accuracy,
        )
    return dense_accuracy, results


def summarize(by_seed: Sequence[Mapping[str, RecipeResult]]) -> list[tuple[str, str, str, str]]:
    """Return a row per recipe: least share removed, mean difference with interval, worst seed.

    Differences are in percentage points.
    """
    rows = []
    for name in by_seed[0]:
        results = [results[name] for results in by_seed]
        differences = [100 * result.accuracy_difference for result in results]
        mean = estimate(differences)
        assert mean is not None  # every seed has a value
        removed_share = min(result.removed_share for result in results)
        rows.append(
            (
                name,
                f"{removed_share:.1%}",
                f"{mean.value:+.2f} [{mean.low:+.2f}, {mean.high:+.2f}]",
                f"{min(differences):+.2f}",
            )
        )
    return rows


@click.command()
@click.option(
    "--seeds", type=click.IntRange(min=2), default=5, show_default=True, help="Number of trainings."
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    help="Epochs of recovery at the end of each recipe.",
)
@options.markdown
def main(seeds: int, epochs: int, as_markdown: bool) -> None:
    """Train the demo model with several seeds and compress each with every recipe."""
    datasets = data.load()
    by_name = recipes(epochs)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        results = [run_seed(seed, datasets, by_name, progress) for seed in range(seeds)]
    dense = [accuracy * 100 for accuracy, _ in results]
    note = (
        f"{seeds} seeds; dense {min(dense):.2f} to {max(dense):.2f} %; {len(datasets.test):,} test "
        f"images, {epochs} epochs of recovery. {describe_machine()}."
    )
    rows = summarize([by_recipe for _, by_recipe in results])
    columns = ("recipe", "removed, at least", "accuracy vs dense, points", "worst seed")
    grid = Grid("Parameters removed against accuracy", columns, rows, note)
    show([grid], Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    main()

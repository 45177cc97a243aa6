"""How much of the demo model can go, over several trainings of it: what is method, what is luck.

    seed ─▶ train dense ─▶ for each recipe: apply it ─▶ test accuracy minus that dense's, paired

    python -m loadtests.benchmarks.seeds [--markdown]

Differences are averaged over seeds, with Student's 95 % interval of the mean. The control is dense
itself, trained on for as long as the others recover; pruning in rounds trains two epochs more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev
from typing import Final

import click
import torch
from rich.console import Console
from rich.progress import Progress

from examples.fashion_mnist import data, model
from examples.fashion_mnist.train import SCHEDULE
from loadtests.benchmarks.throughput import machine
from loadtests.trials.grid import Grid, show
from variants.catalog.recipe import Recipe, Step
from variants.compression.pruning.neurons import count_parameters
from variants.compression.techniques import resolve_all
from variants.model.dataset import Datasets
from variants.model.loading import describe
from variants.model.state import CompressionState
from variants.model.training import accuracy, fit

STUDENT: Final = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""The 97.5 % points of Student's t for so many observations."""

CONTROL: Final = "control: dense, trained on"
SHARES: Final = (0.62, 0.74, 0.90, 0.95)


@dataclass(frozen=True)
class Outcome:
    """What one recipe did to the model of one seed, as shares."""

    removed: float
    difference: float


def recipes(epochs: int) -> dict[str, Recipe]:
    """Return what is tried, by name: all train equally long at the end, and some before."""
    found: dict[str, Recipe] = {CONTROL: (_recover(epochs),)}
    for share in SHARES:
        pruning = Step(technique="activation-pruning", parameters={"share": share})
        found[f"activation-pruning, {share:.0%}"] = (pruning, _recover(epochs))
    for share in SHARES:
        parameters = {"share": share, "rounds": 3, "recover": {"epochs": 1}}
        pruning = Step(technique="structured", parameters=parameters)
        found[f"structured in 3 rounds, {share:.0%}"] = (pruning, _recover(epochs))
    return found


def _recover(epochs: int) -> Step:
    return Step(technique="recover", parameters={"epochs": epochs, "distill": 0.5})


def run_seed(
    seed: int, datasets: Datasets, tried: Mapping[str, Recipe], progress: Progress
) -> tuple[float, dict[str, Outcome]]:
    """Train with this seed and apply every recipe; return dense's accuracy and the outcomes."""
    torch.manual_seed(seed)
    network = model.network()
    schedule = SCHEDULE.model_copy(update={"seed": seed})
    fit(network, datasets.train, schedule, progress, label=f"seed {seed}: training")
    interface = describe(network, datasets.validation.samples, datasets.axes)
    dense = CompressionState(network, interface, dense=network)
    dense_accuracy = accuracy(network, datasets.test)
    outcomes = {}
    for name, recipe in tried.items():
        state = dense
        for technique in resolve_all(recipe):
            state = technique.apply(state, datasets.training_data, progress)
        outcomes[name] = Outcome(
            removed=1 - count_parameters(state.network) / count_parameters(network),
            difference=accuracy(state.network, datasets.test) - dense_accuracy,
        )
    return dense_accuracy, outcomes


def summarize(seeds: Sequence[Mapping[str, Outcome]]) -> list[tuple[str, str, str, str]]:
    """Return a row per recipe: parameters removed, mean difference with interval, the worst."""
    rows = []
    for name in seeds[0]:
        outcomes = [outcomes[name] for outcomes in seeds]
        differences = [outcome.difference * 100 for outcome in outcomes]
        middle = mean(differences)
        reach = STUDENT[len(seeds)] * stdev(differences) / sqrt(len(seeds))
        removed = min(outcome.removed for outcome in outcomes)
        rows.append(
            (
                name,
                f"{removed:.1%}",
                f"{middle:+.2f} [{middle - reach:+.2f}, {middle + reach:+.2f}]",
                f"{min(differences):+.2f}",
            )
        )
    return rows


@click.command()
@click.option("--seeds", type=click.IntRange(2, max(STUDENT)), default=5, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=6, show_default=True, help="Of each.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
def main(seeds: int, epochs: int, as_markdown: bool) -> None:
    """Train and compress the demo model with several seeds."""
    datasets = data.load()
    tried = recipes(epochs)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        found = [run_seed(seed, datasets, tried, progress) for seed in range(seeds)]
    dense = [accuracy * 100 for accuracy, _ in found]
    note = (
        f"{seeds} seeds; dense {min(dense):.2f} to {max(dense):.2f} %; {len(datasets.test):,} test "
        f"images, {epochs} epochs of recovery. {machine()}."
    )
    rows = summarize([outcomes for _, outcomes in found])
    columns = ("recipe", "removed, at least", "vs dense, points", "worst seed")
    grid = Grid("Parameters removed against accuracy", columns, rows, note)
    show([grid], Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    main()

"""Verbs that help to choose recipes and variants: sweep, sensitivity, search, explain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from loadtests.trials.options import FILE, FOLDER, finite
from paretoserve.commands.options import (
    CATALOG,
    DEFAULT_CATALOG,
    PROJECT,
    console,
    print_lines,
    progress_bars,
)

if TYPE_CHECKING:
    from variants.analysis.search.goal import Cost
    from variants.compression.pruning.score import Criterion

LARGEST_SPARSITY = 95
"""In percent: the last of `variants.analysis.sensitivity.layers.SPARSITIES`, which would bring torch."""


@click.command()
@PROJECT
@click.option(
    "--plots",
    type=FOLDER,
    default=Path("sweep"),
    show_default=True,
    help="Folder for the plots.",
)
def sweep(project: Path, plots: Path) -> None:
    """Prune by a grid of activation thresholds: what each removes, and what it costs."""
    from variants.analysis.sweep.report import plot, table, verdicts
    from variants.analysis.sweep.sweep import run_sweep

    with progress_bars() as progress:
        swept = run_sweep(project, progress)
    console.print(table(swept))
    print_lines((*verdicts(swept), *map(str, plot(swept, plots))))


@click.command()
@PROJECT
@click.option(
    "--target",
    type=click.FloatRange(0, LARGEST_SPARSITY),
    callback=finite,
    metavar="PERCENT",
    help=f"Share of the weights to allot; each layer is measured up to {LARGEST_SPARSITY} %.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    callback=finite,
    metavar="POINTS",
    help="Most to lose, before recovery.",
)
@click.option("--heads", is_flag=True, help="Rank attention heads, and measure nothing else.")
@click.option(
    "--criterion",
    type=click.Choice(["taylor", "gradient", "activation", "magnitude"]),
    help="What heads are ranked by. [default: taylor]",
)
@click.option(
    "--out",
    type=FOLDER,
    default=Path("sensitivity"),
    show_default=True,
    help="Folder for sensitivity.json and the plot, or for heads.json.",
)
def sensitivity(
    project: Path,
    target: float | None,
    max_drop: float | None,
    heads: bool,
    criterion: Criterion | None,
    out: Path,
) -> None:
    """Show what each layer's sparsity costs; with a target or a drop, how to share it out.

    With --heads, show how much each attention head matters.
    """
    if heads:
        if target is not None or max_drop is not None:
            raise click.UsageError("--heads shares nothing out: give no --target, no --max-drop.")
        _rank_heads(project, criterion or "taylor", out)
        return
    if criterion is not None:
        raise click.UsageError("--criterion is what heads are ranked by: give --heads, too.")

    from variants.analysis.sensitivity.layers import run_sensitivity
    from variants.analysis.sensitivity.report import allot, table, write_files

    with progress_bars() as progress:
        measured = run_sensitivity(project, progress)
    console.print(table(measured))
    print_lines(map(str, write_files(measured, out)))
    if target is not None or max_drop is not None:
        click.echo(allot(measured, target_percent=target, max_drop_points=max_drop), nl=False)


def _rank_heads(project: Path, criterion: Criterion, out: Path) -> None:
    from variants.analysis.sensitivity.heads import run_heads, write_heads
    from variants.compression.pruning.heads import table

    with progress_bars() as progress:
        ranked = run_heads(project, criterion, progress)
    console.print(table(ranked, criterion))
    print_lines((str(write_heads(ranked, out)),))


@click.command()
@PROJECT
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100, min_open=True),
    callback=finite,
    metavar="POINTS",
    help="Largest drop of accuracy.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(50, 100, max_open=True),
    callback=finite,
    default=95,
    show_default=True,
    metavar="PERCENT",
)
@click.option("--least", type=click.Choice(["parameters", "bytes", "latency"]))
@click.option(
    "--latency-ms",
    type=click.FloatRange(0, min_open=True),
    callback=finite,
    metavar="MS",
    help="Largest median latency of a batch.",
)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--time-limit", default="10m", show_default=True, help="As in 90s, 10m or 1.5h.")
@click.option(
    "--state",
    type=FOLDER,
    default=Path("search"),
    show_default=True,
    help="Folder of what was tried; a search goes on from there.",
)
@click.option("--recover-epochs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--write",
    type=FILE,
    help="Write the recipes found into this file, too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def search(
    project: Path,
    max_drop: float | None,
    confidence: float,
    least: Cost | None,
    latency_ms: float | None,
    batch: int,
    time_limit: str,
    state: Path,
    recover_epochs: int,
    seed: int,
    write: Path | None,
    as_json: bool,
) -> None:
    """Find recipes for PROJECT that keep a budget: the least of a cost, or the best accuracy."""
    from variants.analysis.search.goal import Goal, duration_s
    from variants.analysis.search.report import recipes_yaml, sentences, table, write_recipes
    from variants.analysis.search.search import search
    from variants.analysis.search.space import families

    goal = Goal.asked(
        max_drop_points=max_drop,
        confidence_percent=confidence,
        least=least,
        latency_ms=latency_ms,
        batch_size=batch,
    )
    with progress_bars() as progress:
        found = search(
            project,
            goal,
            state,
            progress,
            time_limit_s=duration_s(time_limit),
            space=families(recover_epochs),
            seed=seed,
        )
    if write is not None:
        write_recipes(found, write)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
        return
    console.print(table(found))
    print_lines(sentences(found))
    click.echo(recipes_yaml(found), nl=False)


@click.command()
@click.argument("variant")
@CATALOG
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--json", "form", flag_value="json", help="Print JSON.")
@click.option("--markdown", "form", flag_value="markdown", help="Print Markdown.")
def explain(variant: str, catalog: Path | None, batch: int, form: str | None) -> None:
    """Say why VARIANT is or is not faster than dense: time by layer, and the reasons."""
    from variants.analysis.explain.explain import explain
    from variants.analysis.explain.report import markdown, sentences, table

    explained = explain(catalog or DEFAULT_CATALOG, variant, batch_size=batch)
    match form:
        case "json":
            click.echo(explained.model_dump_json(indent=2))
        case "markdown":
            click.echo(markdown(explained), nl=False)
        case _:
            console.print(table(explained))
            print_lines(sentences(explained))

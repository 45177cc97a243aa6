"""Verbs for the choice of recipes and variants: sweep, sensitivity, search, explain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from loadtests.trials.options import FILE, FOLDER, finite
from paretoserve.commands.options import CATALOG, DEFAULT_CATALOG, PROJECT
from paretoserve.terminal import console, print_lines, progress_bars

if TYPE_CHECKING:
    from variants.analysis.search.goal import Cost
    from variants.compression.pruning.score import Criterion

LARGEST_SPARSITY = 95
"""In percent: the last of `variants.analysis.sensitivity.layers.SPARSITIES`. A copy, because the
import of that module would import torch."""


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
    """Prune PROJECT's model by a grid of activation thresholds.

    Print the share of parameters that each pair of thresholds removes, and the accuracy.
    """
    from variants.analysis.sweep.report import plot, table, verdicts
    from variants.analysis.sweep.sweep import run_sweep

    with progress_bars() as progress:
        result = run_sweep(project, progress)
    console.print(table(result))
    print_lines((*verdicts(result), *map(str, plot(result, plots))))


@click.command()
@PROJECT
@click.option(
    "--target",
    type=click.FloatRange(0, LARGEST_SPARSITY),
    callback=finite,
    metavar="PERCENT",
    help=f"Share of all weights to remove, up to {LARGEST_SPARSITY} %.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    callback=finite,
    metavar="POINTS",
    help="Largest expected loss of accuracy, before recovery.",
)
@click.option("--heads", is_flag=True, help="Rank attention heads instead of layers.")
@click.option(
    "--criterion",
    type=click.Choice(["taylor", "gradient", "activation", "magnitude"]),
    help="Criterion to rank heads by. [default: taylor]",
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
    """Measure the loss of accuracy by sparsity of each layer.

    One layer of PROJECT's model at a time loses its smallest weights. With --target or
    --max-drop, also print the sparsity of each layer that loses least accuracy in all, as YAML for
    a recipe. With --heads, rank the attention heads by importance.
    """
    if heads:
        if target is not None or max_drop is not None:
            raise click.UsageError("--heads cannot be combined with --target or --max-drop.")
        _rank_heads(project, criterion or "taylor", out)
        return
    if criterion is not None:
        raise click.UsageError("--criterion is used by --heads: give that option too.")

    from variants.analysis.sensitivity.layers import run_sensitivity
    from variants.analysis.sensitivity.report import sentences, table, to_shares_yaml, write_files

    with progress_bars() as progress:
        result = run_sensitivity(project, progress)
    console.print(table(result))
    print_lines((*sentences(result), *map(str, write_files(result, out))))
    if target is not None or max_drop is not None:
        shares = to_shares_yaml(result, target_percent=target, max_drop_points=max_drop)
        click.echo(shares, nl=False)


def _rank_heads(project: Path, criterion: Criterion, out: Path) -> None:
    from variants.analysis.sensitivity.heads import run_heads, write_heads
    from variants.compression.pruning.heads import table

    with progress_bars() as progress:
        heads = run_heads(project, criterion, progress)
    console.print(table(heads, criterion))
    print_lines((str(write_heads(heads, out)),))


@click.command()
@PROJECT
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100, min_open=True),
    callback=finite,
    metavar="POINTS",
    help="Largest allowed drop of accuracy.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(50, 100, max_open=True),
    callback=finite,
    default=95,
    show_default=True,
    metavar="PERCENT",
    help="Confidence of all claims together.",
)
@click.option(
    "--least",
    type=click.Choice(["parameters", "bytes", "latency"]),
    help="Cost to minimize. Without it, the search maximizes accuracy.",
)
@click.option(
    "--latency-ms",
    type=click.FloatRange(0, min_open=True),
    callback=finite,
    metavar="MS",
    help="Largest allowed median latency of a batch.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Batch size at which latency is measured.",
)
@click.option(
    "--time-limit", default="10m", show_default=True, help="Duration, as 90s, 10m or 1.5h."
)
@click.option(
    "--state",
    type=FOLDER,
    default=Path("search"),
    show_default=True,
    help="Folder of the search's records. A search continues from the records in it.",
)
@click.option(
    "--recover-epochs",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Training epochs of each recovery step.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the data split.")
@click.option("--write", type=FILE, help="Also write the recipes into this file.")
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
    """Search for recipes for PROJECT that keep a budget.

    The search minimizes a cost within --max-drop, or maximizes accuracy within --latency-ms.
    """
    from variants.analysis.search.goal import Goal, duration_s
    from variants.analysis.search.report import recipes_yaml, sentences, table, write_recipes
    from variants.analysis.search.search import search
    from variants.analysis.search.space import families

    goal = Goal.from_options(
        max_drop_points=max_drop,
        confidence_percent=confidence,
        least=least,
        latency_ms=latency_ms,
        batch_size=batch,
    )
    with progress_bars() as progress:
        result = search(
            project,
            goal,
            state,
            progress,
            time_limit_s=duration_s(time_limit),
            space=families(recover_epochs),
            seed=seed,
        )
    if write is not None:
        write_recipes(result, write)
    if as_json:
        click.echo(result.model_dump_json(indent=2))
        return
    console.print(table(result))
    print_lines(sentences(result))
    click.echo(recipes_yaml(result), nl=False)


@click.command()
@click.argument("variant")
@CATALOG
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Batch size at which both are profiled.",
)
@click.option("--json", "form", flag_value="json", help="Print JSON.")
@click.option("--markdown", "form", flag_value="markdown", help="Print Markdown.")
def explain(variant: str, catalog: Path | None, batch: int, form: str | None) -> None:
    """Explain why VARIANT is or is not faster than dense.

    Print the time that each layer takes in both, and the reasons.
    """
    from variants.analysis.explain.explain import explain
    from variants.analysis.explain.report import markdown, sentences, table

    explanation = explain(catalog or DEFAULT_CATALOG, variant, batch_size=batch)
    match form:
        case "json":
            click.echo(explanation.model_dump_json(indent=2))
        case "markdown":
            click.echo(markdown(explanation), nl=False)
        case _:
            console.print(table(explanation))
            print_lines(sentences(explanation))

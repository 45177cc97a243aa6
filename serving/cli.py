"""The command `paretoserve`: each verb calls one function."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

if TYPE_CHECKING:
    from variants.choosing.goal import Cost

DEFAULT_CATALOG = Path("catalog")
CATALOG = click.option(
    "--catalog",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="The folder of variants. [default: catalog]",
)


PERCENT = click.FloatRange(0, 100)
PROJECT = click.argument("project", type=click.Path(path_type=Path, exists=True, dir_okay=False))

console = Console()
errors = Console(stderr=True)


def _progress() -> Progress:
    """Return bars on stderr: stdout is for what was asked for, which may be JSON."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=errors,
    )


def _print_lines(lines: Iterable[str]) -> None:
    """Print text as it is: brackets and colons in it are no markup."""
    for line in lines:
        console.print(Text(line))


def _given(**options: object) -> dict[str, object]:
    """Return the options that the command line has."""
    return {name: value for name, value in options.items() if value is not None}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="paretoserve")
def cli() -> None:
    """One trained PyTorch model, served as many: dense, pruned, 2:4-sparse, INT8.

    Each request gets the most accurate variant that meets its deadline and accuracy floor.
    """


@cli.command()
@PROJECT
@CATALOG
@click.option("--only", multiple=True, metavar="VARIANT", help="Build these; may be repeated.")
def build(project: Path, catalog: Path | None, only: tuple[str, ...]) -> None:
    """Build the variants of PROJECT, a recipes file, measure them, and write the report."""
    from variants.build import build
    from variants.report import render_overview
    from variants.report_files import write_report

    with _progress() as progress:
        built = build(project, catalog or DEFAULT_CATALOG, progress=progress, only=only)
    write_report(built, catalog or DEFAULT_CATALOG)
    console.print(render_overview(built))


@cli.command()
@PROJECT
def check(project: Path) -> None:
    """Check all that PROJECT needs to be built, and say what is missing or wrong.

    The exit status is 2 if it cannot be built; a warning alone is none.
    """
    from variants.check import check

    if not check(project, lambda finding: console.print(finding.line(), soft_wrap=True)):
        sys.exit(2)


@cli.command()
@click.argument(
    "catalog", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_CATALOG
)
@click.option("--json", "form", flag_value="json", help="Print JSON, as the router reads it.")
@click.option("--markdown", "form", flag_value="markdown", help="Print Markdown.")
@click.option("--brief", is_flag=True, help="One line per variant.")
def report(catalog: Path, form: str | None, brief: bool) -> None:
    """Show the report cards of CATALOG, and write them there as HTML, Markdown and JSON."""
    from variants import report
    from variants.catalog import Catalog
    from variants.report_files import write_report

    cards = Catalog.load(catalog)
    write_report(cards, catalog)
    match form:
        case "json":
            click.echo(report.render_json(cards))
        case "markdown":
            click.echo(report.overview_markdown(cards) if brief else report.render_markdown(cards))
        case _:
            console.print(report.render_overview(cards) if brief else report.render_table(cards))


@cli.command()
@PROJECT
@click.option(
    "--plots",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("sweep"),
    show_default=True,
    help="Folder for the plots.",
)
def sweep(project: Path, plots: Path) -> None:
    """Prune by a grid of activation thresholds: what each removes, and what it costs."""
    from variants.sweep import run_sweep
    from variants.sweep_report import plot, table, verdicts

    with _progress() as progress:
        swept = run_sweep(project, progress)
    console.print(table(swept))
    _print_lines((*verdicts(swept), *map(str, plot(swept, plots))))


@cli.command()
@PROJECT
@click.option("--target", type=PERCENT, metavar="PERCENT", help="Share of the weights to allot.")
@click.option("--max-drop", type=PERCENT, metavar="POINTS", help="Most to lose, before recovery.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("sensitivity"),
    show_default=True,
    help="Folder for sensitivity.json and the plot.",
)
def sensitivity(project: Path, target: float | None, max_drop: float | None, out: Path) -> None:
    """Show what each layer's sparsity costs; with a target or a drop, how to share it out."""
    from variants.choosing.sensitivity import run_sensitivity
    from variants.choosing.sensitivity_report import allot, table, write_files

    with _progress() as progress:
        measured = run_sensitivity(project, progress)
    console.print(table(measured))
    _print_lines(map(str, write_files(measured, out)))
    if target is not None or max_drop is not None:
        click.echo(allot(measured, target_percent=target, max_drop_points=max_drop), nl=False)


@cli.command()
@PROJECT
@click.option("--max-drop", type=float, metavar="POINTS", help="Largest drop of accuracy.")
@click.option("--confidence", type=float, default=95, show_default=True, metavar="PERCENT")
@click.option("--least", type=click.Choice(["parameters", "bytes", "latency"]))
@click.option("--latency-ms", type=float, metavar="MS", help="Largest median latency of a batch.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--time-limit", default="10m", show_default=True, help="As in 90s, 10m or 1.5h.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("search"),
    show_default=True,
    help="Folder of what was tried; a search goes on from there.",
)
@click.option("--recover-epochs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--write",
    type=click.Path(path_type=Path, dir_okay=False),
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
    from variants.choosing.goal import Goal, duration_s
    from variants.choosing.search import search
    from variants.choosing.search_report import recipes_yaml, sentences, table, write_recipes
    from variants.choosing.space import families

    goal = Goal.asked(
        max_drop_points=max_drop,
        confidence_percent=confidence,
        least=least,
        latency_ms=latency_ms,
        batch_size=batch,
    )
    with _progress() as progress:
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
    _print_lines(sentences(found))
    click.echo(recipes_yaml(found), nl=False)


@cli.command()
@click.argument("variant")
@CATALOG
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--json", "form", flag_value="json", help="Print JSON.")
@click.option("--markdown", "form", flag_value="markdown", help="Print Markdown.")
def explain(variant: str, catalog: Path | None, batch: int, form: str | None) -> None:
    """Say why VARIANT is or is not faster than dense: time by layer, and the reasons."""
    from variants.choosing.explain import explain
    from variants.choosing.explain_report import markdown, sentences, table

    explained = explain(catalog or DEFAULT_CATALOG, variant, batch_size=batch)
    match form:
        case "json":
            click.echo(explained.model_dump_json(indent=2))
        case "markdown":
            click.echo(markdown(explained), nl=False)
        case _:
            console.print(table(explained))
            _print_lines(sentences(explained))


@cli.command()
@CATALOG
@click.option("--host", default=None, help="Address to listen on. [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=None, help="For HTTP. [default: 8000]"
)
@click.option(
    "--grpc-port", type=click.IntRange(0, 65535), default=None, help="For gRPC. [default: 9000]"
)
def up(catalog: Path | None, host: str | None, port: int | None, grpc_port: int | None) -> None:
    """Serve the variants of a catalog on this machine, until Ctrl-C."""
    from serving.settings import load_settings

    settings = load_settings(
        **_given(
            catalog=catalog,
            http=_given(host=host, port=port),
            grpc=_given(host=host, port=grpc_port),
        )
    )

    from serving.cluster.environment import set_environment

    set_environment()
    from serving.cluster.up import serve_until_stopped

    serve_until_stopped(settings)


@cli.command()
@click.option("--url", default="http://127.0.0.1:8000", show_default=True)
@click.option("--users", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--seconds", type=click.IntRange(min=1), default=30, show_default=True)
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the summary into this file, too.",
)
def load(url: str, users: int, seconds: int, json_path: Path | None) -> None:
    """Load a running service with a mix of SLO classes, and show how each fared.

    Users are a closed loop. The exit status is 1 if any request failed: one that the service
    refused for its SLO (422, 429, 504) did not.
    """
    from loadtests.run import load

    if load(url, users, seconds, json_path=json_path).failures:
        sys.exit(1)


def main() -> None:
    """Run the command; a mistake of the caller's ends in one line, not in a traceback."""
    # A project names its own modules, and they lie where the command is run.
    sys.path.insert(0, str(Path.cwd()))
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except ValueError as error:
        errors.print(Text.assemble(("error:", "bold red"), f" {error}"), soft_wrap=True)
        sys.exit(2)

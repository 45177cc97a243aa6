"""The command `paretoserve`: each verb calls one function."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

DEFAULT_CATALOG = Path("catalog")
CATALOG = click.option(
    "--catalog",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="The folder of variants. [default: catalog]",
)


PROJECT = click.argument("project", type=click.Path(path_type=Path, exists=True, dir_okay=False))

console = Console()


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
    )


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
@click.argument(
    "catalog", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_CATALOG
)
@click.option("--json", "form", flag_value="json", help="Print JSON, as the router reads it.")
@click.option("--markdown", "form", flag_value="markdown", help="Print Markdown.")
@click.option("--brief", is_flag=True, help="One line per variant.")
def report(catalog: Path, form: str | None, brief: bool) -> None:
    """Show the report cards of CATALOG, and write report.md and the Pareto plot beside them."""
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
    for line in (*verdicts(swept), *map(str, plot(swept, plots))):
        console.print(line, highlight=False)


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
        Console(stderr=True).print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)

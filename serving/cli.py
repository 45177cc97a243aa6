"""The command `paretoserve`: each verb calls one function."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

CATALOG = click.option(
    "--catalog",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="The folder of variants. [default: catalog]",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="paretoserve")
def cli() -> None:
    """One trained PyTorch model, served as many: dense, pruned, 2:4-sparse, INT8.

    Each request gets the most accurate variant that meets its deadline and accuracy floor.
    """


@cli.command()
@click.argument("project", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@CATALOG
@click.option("--only", multiple=True, metavar="VARIANT", help="Build these; may be repeated.")
def build(project: Path, catalog: Path | None, only: tuple[str, ...]) -> None:
    """Build the variants of PROJECT, a recipes file, and measure them."""
    from variants.build import build

    build(project, catalog or Path("catalog"), only=only)


@cli.command()
@click.argument("catalog", type=click.Path(path_type=Path, file_okay=False), default="catalog")
@click.option("--json", "as_json", is_flag=True, help="Print the cards as JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the cards as Markdown.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the Pareto frontier into this PNG file.",
)
def report(catalog: Path, as_json: bool, as_markdown: bool, plot: Path | None) -> None:
    """Show the report cards of CATALOG."""
    from variants.report_plot import plot_frontier

    from variants.catalog import Catalog
    from variants.report import render_json, render_markdown, render_table

    cards = Catalog.load(catalog)
    if plot is not None:
        plot_frontier(cards, plot)
    if as_json:
        click.echo(render_json(cards))
    elif as_markdown:
        click.echo(render_markdown(cards))
    else:
        Console().print(render_table(cards))


@cli.command()
@CATALOG
@click.option("--host", default=None, help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="[default: 8000]")
def up(catalog: Path | None, host: str | None, port: int | None) -> None:
    """Serve the variants of a catalog on this machine, until Ctrl-C."""
    from serving.settings import load_settings

    overrides: dict[str, Any] = {}
    if catalog is not None:
        overrides["catalog"] = catalog
    settings = load_settings(**overrides)
    http = {
        name: value for name, value in {"host": host, "port": port}.items() if value is not None
    }
    settings = settings.model_copy(update={"http": settings.http.model_copy(update=http)})

    from serving.cluster.environment import set_environment

    set_environment()
    from serving.cluster.up import serve_until_stopped

    serve_until_stopped(settings)


def main() -> None:
    """Run the command; a mistake of the caller's ends in one line, not in a traceback."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except ValueError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {error}", highlight=False)
        sys.exit(2)

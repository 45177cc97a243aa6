"""Verbs that make variants and their report cards: build, measure, check, report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loadtests.trials.options import FOLDER
from paretoserve.commands.options import (
    CATALOG,
    DEFAULT_CATALOG,
    PROJECT,
    THREADS,
    console,
    progress_bars,
)

if TYPE_CHECKING:
    from variants.catalog.catalog import Catalog


@click.command()
@PROJECT
@CATALOG
@click.option("--only", multiple=True, metavar="VARIANT", help="Build these; may be repeated.")
@THREADS
def build(project: Path, catalog: Path | None, only: tuple[str, ...], threads: int) -> None:
    """Build the variants of PROJECT, a recipes file, measure them, and write the report."""
    from variants.build.build import build

    with progress_bars() as progress:
        built = build(
            project, catalog or DEFAULT_CATALOG, progress=progress, only=only, threads=threads
        )
    _publish(built, catalog or DEFAULT_CATALOG)


@click.command()
@PROJECT
@CATALOG
@THREADS
def measure(project: Path, catalog: Path | None, threads: int) -> None:
    """Measure the variants of a catalog of PROJECT anew, on this machine, and write the report.

    Nothing is built. Report cards of other kinds of hardware are kept.
    """
    from variants.build.build import measure_again

    with progress_bars() as progress:
        measured = measure_again(
            project, catalog or DEFAULT_CATALOG, progress=progress, threads=threads
        )
    _publish(measured, catalog or DEFAULT_CATALOG)


def _publish(catalog: Catalog, folder: Path) -> None:
    from variants.report.files import write_report
    from variants.report.tables import render_overview

    write_report(catalog, folder)
    console.print(render_overview(catalog))


@click.command()
@PROJECT
def check(project: Path) -> None:
    """Check all that PROJECT needs to be built, and say what is missing or wrong.

    The exit status is 2 if it cannot be built; a warning alone is none.
    """
    from variants.build.check import check

    if not check(project, lambda finding: console.print(finding.line(), soft_wrap=True)):
        sys.exit(2)


@click.command()
@click.argument("catalog", type=FOLDER, default=DEFAULT_CATALOG)
@click.option("--json", "form", flag_value="json", help="Print JSON, as the router reads it.")
@click.option("--markdown", "form", flag_value="markdown", help="Print Markdown.")
@click.option("--brief", is_flag=True, help="One line per variant.")
def report(catalog: Path, form: str | None, brief: bool) -> None:
    """Show the report cards of CATALOG, and write them there as HTML, Markdown and JSON."""
    from variants.catalog.catalog import Catalog
    from variants.report import tables as report
    from variants.report.files import write_report

    cards = Catalog.load(catalog)
    write_report(cards, catalog)
    match form:
        case "json":
            click.echo(report.render_json(cards))
        case "markdown":
            click.echo(report.overview_markdown(cards) if brief else report.render_markdown(cards))
        case _:
            console.print(report.render_overview(cards) if brief else report.render_table(cards))

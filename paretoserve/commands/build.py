"""Verbs that make variants and their report cards: build, measure, check, report."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import click

from loadtests.trials.options import FOLDER
from paretoserve import api
from paretoserve.commands.options import CATALOG, DEFAULT_CATALOG, DEVICE, PROJECT, THREADS
from paretoserve.terminal import console, errors, progress_bars
from variants.catalog.device import Device


@click.command()
@PROJECT
@CATALOG
@click.option("--only", multiple=True, metavar="VARIANT", help="Build this variant. Repeatable.")
@THREADS
@DEVICE
def build(
    project: Path, catalog: Path | None, only: tuple[str, ...], threads: int, device: Device
) -> None:
    """Build and measure the variants of PROJECT, a recipes file.

    Write the report cards into the catalog as HTML, Markdown and JSON.
    """
    folder = catalog or DEFAULT_CATALOG
    console.print(api.build(project, folder, only=only, threads=threads, device=device))


@click.command()
@PROJECT
@CATALOG
@THREADS
@DEVICE
def measure(project: Path, catalog: Path | None, threads: int, device: Device) -> None:
    """Measure the variants of an existing catalog again.

    The catalog must be one of PROJECT. Nothing is built. Report cards of other kinds of hardware
    are kept.
    """
    from variants.build.build import measure_again
    from variants.report.files import write_report
    from variants.report.tables import render_overview

    folder = catalog or DEFAULT_CATALOG
    with progress_bars() as progress:
        measured = measure_again(project, folder, progress=progress, threads=threads, device=device)
    write_report(measured, folder)
    console.print(render_overview(measured))


@click.command()
@PROJECT
@click.option("--debug", is_flag=True, help="Print the traceback of each error to stderr.")
def check(project: Path, debug: bool) -> None:
    """Check whether PROJECT can be built.

    Print what is missing or wrong, and what would be right. Try every recipe on few samples, and
    estimate the time of a build. The exit status is 2 if it cannot be built. Warnings do not change
    the exit status.
    """
    from variants.build.check import check
    from variants.build.finding import CheckResult

    def show(finding: CheckResult) -> None:
        console.print(finding.line(), soft_wrap=True)
        if debug and finding.cause is not None:
            errors.print("".join(traceback.format_exception(finding.cause)), markup=False)

    if not check(project, show):
        sys.exit(2)


@click.command()
@click.argument("catalog", type=FOLDER, default=DEFAULT_CATALOG)
@click.option("--json", "form", flag_value="json", help="Print JSON, as the router reads it.")
@click.option("--markdown", "form", flag_value="markdown", help="Print Markdown.")
@click.option("--brief", is_flag=True, help="Print one line per variant.")
def report(catalog: Path, form: str | None, brief: bool) -> None:
    """Print the report cards of CATALOG.

    Also write them into CATALOG as HTML, Markdown and JSON.
    """
    from variants.catalog.catalog import Catalog
    from variants.report import tables
    from variants.report.files import write_report

    cards = Catalog.load(catalog)
    write_report(cards, catalog)
    match form:
        case "json":
            click.echo(tables.render_json(cards))
        case "markdown":
            click.echo(tables.overview_markdown(cards) if brief else tables.render_markdown(cards))
        case _:
            console.print(tables.render_overview(cards) if brief else tables.render_table(cards))

"""Verbs that make variants and their report cards: build, measure, check, report."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import click

from loadtests.trials.options import FOLDER
from paretoserve import api
from paretoserve.commands.options import (
    BATCH_SIZES,
    CATALOG,
    DEFAULT_CATALOG,
    DEVICE,
    PROJECT,
    QUICK,
    THREADS,
)
from paretoserve.terminal import console, errors, progress_bars
from variants.catalog.device import Device


@click.command()
@PROJECT
@CATALOG
@click.option("--only", multiple=True, metavar="VARIANT", help="Build this variant. Repeatable.")
@THREADS
@DEVICE
@QUICK
@BATCH_SIZES
@click.option("--fail-fast", is_flag=True, help="End at the first recipe that fails; keep nothing.")
def build(
    project: Path,
    catalog: Path | None,
    only: tuple[str, ...],
    threads: int,
    device: Device,
    quick: bool,
    batch_sizes: tuple[int, ...] | None,
    fail_fast: bool,
) -> None:
    """Build and measure the variants of PROJECT, a recipes file.

    Write the report cards into the catalog as HTML, Markdown and JSON. A recipe that fails is left
    out and named at the end, and the exit status is 2.
    """
    try:
        built = api.build(
            project,
            catalog or DEFAULT_CATALOG,
            only=only,
            threads=threads,
            device=device,
            quick=quick,
            batch_sizes=batch_sizes,
            fail_fast=fail_fast,
        )
    except api.BuildFailed as failed:
        console.print(failed.catalog)
        raise
    console.print(built)


@click.command()
@PROJECT
@CATALOG
@THREADS
@DEVICE
@QUICK
@BATCH_SIZES
def measure(
    project: Path,
    catalog: Path | None,
    threads: int,
    device: Device,
    quick: bool,
    batch_sizes: tuple[int, ...] | None,
) -> None:
    """Measure the variants of an existing catalog again.

    The catalog must be one of PROJECT. Nothing is built. Report cards of other kinds of hardware
    are kept.
    """
    from variants.build.build import measure_again
    from variants.measurement.report_card import chosen_measure
    from variants.report.files import write_report
    from variants.report.tables import render_overview

    folder = catalog or DEFAULT_CATALOG
    with progress_bars() as progress:
        measured = measure_again(
            project,
            folder,
            progress=progress,
            threads=threads,
            device=device,
            measure=chosen_measure(quick=quick, batch_sizes=batch_sizes),
        )
    write_report(measured, folder)
    console.print(render_overview(measured))


@click.command()
@PROJECT
@click.pass_context
def check(context: click.Context, project: Path) -> None:
    """Check whether PROJECT can be built.

    Print what is missing or wrong, and what would be right. Try every recipe on few samples, and
    estimate the time of a build. The exit status is 2 if it cannot be built. Warnings do not change
    the exit status.
    """
    from variants.build.check import check
    from variants.build.finding import CheckResult

    is_debug = context.find_root().params.get("debug", False)

    def show(finding: CheckResult) -> None:
        console.print(finding.line(), soft_wrap=True)
        if is_debug and finding.cause is not None:
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

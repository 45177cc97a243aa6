"""Measures Paretoserve against other model servers, with one load generator.

    python -m loadtests.peers [--servers paretoserve,mosec] [--markdown FILE]

All serve the dense variant of a catalog in onnxruntime with one thread. Servers take turns. Each
has an environment of its own in build/peers/, which is built when it is first needed.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final

import click
from rich.console import Console

from loadtests.benchmarks import options
from loadtests.benchmarks.machine import describe_machine
from loadtests.peers import peer, reference, service, wrk
from loadtests.peers.measure import Measurement, measure
from loadtests.peers.table import peers_grid
from loadtests.peers.target import Target
from loadtests.steady.options import catalog as catalog_option
from loadtests.trials.options import FILE
from loadtests.workload.notation import parse_names

CONNECTIONS: Final = "1,16,64"


def _counts(context: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
    counts = tuple(int(part) for part in parse_names(text) if part.isdigit() and int(part) > 0)
    if not counts or len(counts) != len(parse_names(text)):
        raise click.BadParameter(f"{text!r} is no list of positive numbers.", context, option)
    return counts


@click.command()
@click.option(
    "--servers",
    callback=lambda context, option, text: parse_names(text),
    default="",
    help="Servers, separated by commas. [default: all]",
)
@click.option(
    "--connections",
    callback=_counts,
    default=CONNECTIONS,
    show_default=True,
    help="Numbers of connections, separated by commas.",
)
@options.rounds(3)
@options.seconds(3.0)
@catalog_option
@click.option("--markdown", type=FILE, help="File to which the table is written as well.")
def main(
    servers: list[str],
    connections: tuple[int, ...],
    rounds: int,
    seconds: float,
    catalog: Path,
    markdown: Path | None,
) -> None:
    """Measure Paretoserve against other model servers."""
    signal.signal(signal.SIGTERM, _exit)  # so that it stops the servers as Ctrl-C does
    stderr = Console(stderr=True, highlight=False)
    measurement = Measurement()
    try:
        wrk.find()
        targets = _targets(servers, catalog, measurement, stderr)
    except (FileNotFoundError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    before = describe_machine()
    measure(targets, connections, rounds, seconds, measurement, stderr.print)
    note = f"Medians of {rounds} rounds of {seconds:g} s; errors are sums. {before} before."
    table = peers_grid(measurement.results(), measurement.unavailable, note).to_markdown()
    print(table)
    if markdown is not None:
        markdown.write_text(f"{table}\n")


def _targets(
    names: list[str], catalog: Path, measurement: Measurement, stderr: Console
) -> list[Target]:
    """Return the targets that can be started; record the others as unavailable.

    Raises ValueError for an unknown name, and as `reference.load` does.
    """
    model = reference.load(catalog)
    peers = {each.name: each for each in peer.list_peers(model)}
    known = [service.NAME, *peers]
    if unknown := set(names) - set(known):
        raise ValueError(f"unknown {', '.join(sorted(unknown))}; known: {', '.join(known)}")

    def on_install(name: str) -> None:
        stderr.print(f"installing packages for {name}")

    targets = []
    for name in names or known:
        try:
            targets.append(
                service.target(catalog, model)
                if name == service.NAME
                else peer.target(peers[name], model.dense, on_install)
            )
        except RuntimeError as error:
            measurement.unavailable[name] = str(error)
    return targets


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()

"""Compares arrangements of a service on one machine: what is computed in which process.

    python -m loadtests.benchmarks.arrangements CATALOG [--markdown]

Runs a service in each arrangement, each with Ray of its own, and sends requests to them in turns,
in closed loops, with binary tensors, over HTTP. The clients share the machine with the services.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import Progress

from loadtests.benchmarks import options
from loadtests.benchmarks.closed_loops import (
    CLIENTS,
    Points,
    Scenario,
    http_scenario,
    measure,
)
from loadtests.benchmarks.machine import describe_machine
from loadtests.client import binary
from loadtests.client.service import connect
from loadtests.trials.grid import Grid, show
from loadtests.trials.options import FOLDER

ARRANGEMENTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "hosts": {},
    "in the gateway": {"hosts": {"in_gateway": "all"}},
}
"""Settings by name; the first is the reference."""

VARIANTS: Final = ("dense", "int8")
"""Variants that requests name, as far as the catalog has them."""

WARM_UP_CLIENTS: Final = 16
WARM_UP_S: Final = 0.5
"""Duration of the load with each request before the first measurement, in seconds."""


@contextmanager
def running(catalog: Path, settings: Mapping[str, Any]) -> Iterator[int]:
    """Serve a copy of a catalog in a process of its own; yield the port of HTTP.

    Raises RuntimeError if the service does not start.
    """
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    with tempfile.TemporaryDirectory(prefix="paretoserve-arrangements-") as folder:
        # Without the state of the service that may run on this catalog.
        copy = Path(folder) / "catalog"
        shutil.copytree(catalog, copy, ignore=shutil.ignore_patterns(".*"))
        process = context.Process(target=serve, args=(copy, settings, other))
        process.start()
        other.close()  # so that reading ends if the process does
        try:
            yield own.recv()
        except EOFError:
            raise RuntimeError("the service did not start; its messages say why") from None
        finally:
            own.close()
            process.join()


def serve(catalog: Path, settings: Mapping[str, Any], parent: Connection) -> None:
    """Serve a catalog, and send the port of HTTP, until the parent closes the pipe."""
    from serving.cluster.environment import set_environment

    set_environment()  # before ray is imported
    from serving.cluster.start import choose_ports, local_cluster, start_service
    from serving.gateway.settings import Settings

    free = {"http": {"port": 0}, "grpc": {"port": 0}}
    chosen = choose_ports(Settings.model_validate({"catalog": catalog, **free, **settings}))
    with local_cluster():
        parent.send(start_service(chosen).http)
        with suppress(EOFError):
            parent.recv()


def scenarios(arrangement: str, port: int) -> list[Scenario]:
    """Return the requests that are measured, of one sample each, after a load that warms up."""
    service = connect(f"http://127.0.0.1:{port}")
    (request,) = binary.random_requests(service.metadata, 1)
    model = service.metadata["name"]
    pinned = [variant for variant in VARIANTS if variant in service.metadata["versions"]]
    paths = {variant: f"/v2/models/{model}/versions/{variant}/infer" for variant in pinned}
    found = [
        http_scenario(f"{arrangement}: {name}", port, path, request.body, request.headers)
        for name, path in {**paths, "routed, no SLO": service.path}.items()
    ]
    for scenario in found:
        scenario.run_closed_loop(WARM_UP_CLIENTS, WARM_UP_S)
    return found


def arrangements_grid(points: Points, note: str) -> Grid:
    """Return a table of all points, each with its ratio to the first arrangement."""
    cases = {(scenario.name, clients): point for (scenario, clients), point in points.items()}
    reference = next(iter(ARRANGEMENTS))
    rows = []
    for (name, clients), point in sorted(cases.items(), key=lambda case: _order(*case[0])):
        arrangement, _, request = name.partition(": ")
        compared = cases[f"{reference}: {request}", clients]
        rows.append(
            (
                request,
                str(clients),
                arrangement,
                f"{point.requests_per_s:,.0f}",
                f"{point.p50_ms:.2f}",
                f"{point.p99_ms:.2f}",
                f"{point.requests_per_s / compared.requests_per_s:.2f}",
            )
        )
    columns = ("variant", "clients", "computed by", "requests/s", "p50 ms", "p99 ms", "x hosts")
    return Grid("Arrangements on one machine", columns, rows, note)


def _order(name: str, clients: int) -> tuple[str, int, int]:
    """Sort by variant and number of clients, so that arrangements stand below each other."""
    arrangement, _, request = name.partition(": ")
    return request, clients, list(ARRANGEMENTS).index(arrangement)


@click.command()
@click.argument("catalog", type=FOLDER)
@options.rounds(3)
@options.seconds(1.5)
@options.markdown
def main(catalog: Path, rounds: int, seconds: float, as_markdown: bool) -> None:
    """Measure requests to a catalog's service in each arrangement."""
    before = describe_machine()
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        starting = progress.add_task("starting services", total=len(ARRANGEMENTS))
        ports = {}
        for name, settings in ARRANGEMENTS.items():
            ports[name] = stack.enter_context(running(catalog, settings))
            progress.advance(starting)
        # One request in all arrangements, then the next one.
        by_arrangement = [scenarios(name, port) for name, port in ports.items()]
        measured = [each for request in zip(*by_arrangement, strict=True) for each in request]
        total = rounds * len(CLIENTS) * len(measured)
        on_run = partial(progress.advance, progress.add_task("sending requests", total=total))
        points = measure(measured, CLIENTS, rounds, seconds, on_run)
    note = f"Medians of {rounds} rounds of {seconds:g} s. {before} before."
    show([arrangements_grid(points, note)], Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    main()

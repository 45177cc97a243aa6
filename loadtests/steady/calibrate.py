"""Measures the CPU time of a running gateway by piece of work, for the simulator.

    python -m loadtests.steady.calibrate URL [--turns 1] [--out costs.json]

Runs closed loops against the service: answered requests with several numbers of clients, and so
with several sizes of batches; requests with an unattainable deadline, which are refused after
parsing; and no requests. The service must have one gateway, and no other clients.
"""

from __future__ import annotations

import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from loadtests.benchmarks import options as benchmark_options
from loadtests.benchmarks.machine import describe_machine
from loadtests.simulator.gateway_costs import GatewayCosts
from loadtests.steady.client_process import LoadClient, start_load_client
from loadtests.steady.gateway_cpu import (
    GatewayCounters,
    GatewayLoad,
    fit_costs,
    parse_counters,
)
from loadtests.steady.measurement import OK
from loadtests.steady.target import ClientSettings, Target, find_target
from loadtests.trials.grid import Grid, show
from loadtests.trials.options import FILE
from variants.catalog import artifact

ANSWERED_CLIENTS: Final = (1, 4, 16, 64)
REFUSED_CLIENTS: Final = 16
LOOSE_DEADLINE_MS: Final = 60_000.0
UNATTAINABLE_DEADLINE_MS: Final = 0.001
TIMEOUT_S: Final = 10.0
"""Time-out for reading the metrics, in seconds."""


@click.command()
@click.argument("url")
@benchmark_options.rounds(2)
@benchmark_options.seconds(3.0)
@click.option(
    "--turns",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Turns of the event loop that the answer of a host crosses. It is not measured.",
)
@click.option("--out", type=FILE, help="File for the costs: `--gateway` of the simulations.")
@benchmark_options.markdown
def main(
    url: str, rounds: int, seconds: float, turns: int, out: Path | None, as_markdown: bool
) -> None:
    """Measure the service at URL and print the costs of its gateway."""
    target = find_target(url, ClientSettings())
    with start_load_client() as client:
        loads = [
            load
            for _ in range(rounds)
            for load in _run_loads(client, target, url.rstrip("/"), seconds)
        ]
    costs = fit_costs(loads, turns)
    show([_costs_grid(costs), _loads_grid(loads)], Console(), as_markdown=as_markdown)
    if out is not None:
        artifact.write_record(out, costs)


def _run_loads(
    client: LoadClient, target: Target, url: str, seconds: float
) -> Iterator[GatewayLoad]:
    before = _read_counters(url)
    time.sleep(seconds)
    idle = _read_counters(url).since(before)
    yield GatewayLoad("idle", seconds, 0, 0, idle.batches, idle.cpu_s)
    for clients in ANSWERED_CLIENTS:
        yield _run(client, target, url, f"{clients} clients", clients, LOOSE_DEADLINE_MS, seconds)
    yield _run(
        client, target, url, "unattainable", REFUSED_CLIENTS, UNATTAINABLE_DEADLINE_MS, seconds
    )


def _run(
    client: LoadClient,
    target: Target,
    url: str,
    name: str,
    clients: int,
    deadline_ms: float,
    seconds: float,
) -> GatewayLoad:
    load = target.load(deadline_ms, seconds, clients=clients)
    before, started = _read_counters(url), time.monotonic()
    record = client.run(load)
    used, took_s = _read_counters(url).since(before), time.monotonic() - started
    answers = int((record.http_status == OK).sum())
    refusals = int((record.http_status > OK).sum())
    return GatewayLoad(name, took_s, answers, refusals, used.batches, used.cpu_s)


def _read_counters(url: str) -> GatewayCounters:
    # Bypasses proxies of the environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/metrics", timeout=TIMEOUT_S) as response:
        return parse_counters(response.read().decode())


def _costs_grid(costs: GatewayCosts) -> Grid:
    rows = [
        ("request", f"{1e3 * costs.per_request_s:.3f}"),
        ("answer", f"{1e3 * costs.per_answer_s:.3f}"),
        ("refusal, in addition to the request", f"{1e3 * costs.per_refusal_s:.3f}"),
        ("batch", f"{1e3 * costs.per_batch_s:.3f}"),
    ]
    return Grid("CPU time of the gateway", ("work", "ms"), rows, f"{describe_machine()}.")


def _loads_grid(loads: Sequence[GatewayLoad]) -> Grid:
    rows = [
        (
            load.name,
            f"{load.answers / load.seconds:,.0f}",
            f"{load.refusals / load.seconds:,.0f}",
            f"{load.batches / load.seconds:,.0f}",
            f"{100 * load.cpu_s / load.seconds:.1f}",
        )
        for load in loads
    ]
    columns = ("load", "answers/s", "refusals/s", "batches/s", "CPU, % of a core")
    return Grid("Loads", columns, rows)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")

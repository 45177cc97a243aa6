"""HTTP against gRPC against JSON: latency and throughput of one variant, side by side.

    python -m loadtests.benchmarks.transports [--markdown]

Every way carries the same samples to the same pinned variant of the service that
`loadtests.benchmarks.throughput` builds; the ways take turns, round by round, in one run. Clients, gateway
and hosts share the machine: what a client costs lowers its way's throughput too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Final, TypeAlias

import click
import numpy as np
import numpy.typing as npt
import orjson
from rich.console import Console
from rich.progress import Progress
from tritonclient.grpc import service_pb2 as pb

from loadtests.benchmarks.throughput import ThroughputPoint, machine, middle, running_service
from loadtests.client import binary
from loadtests.client import grpc as grpc_client
from loadtests.client import http as client
from loadtests.client.http import LoadResult, build_post_request
from loadtests.client.service import ServiceDescription, connect
from loadtests.trials.grid import Grid, show
from serving.gateway.description import Ports

CLIENTS: Final = (1, 16, 64)
SAMPLES: Final = (1, 16)
REFERENCE: Final = "HTTP, binary"

Drive: TypeAlias = Callable[[int, float], LoadResult]
"""Sends from so many clients for so many seconds."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask; `request_bytes` go up for each request, HTTP's and gRPC's own not counted."""

    name: str
    samples: int
    request_bytes: int
    run_closed_loop: Drive


def ways(ports: Ports, service: ServiceDescription, samples: int) -> list[Way]:
    """Return every way to send one request of so many random samples to the dense variant."""
    inputs = binary.random_inputs(service.metadata, np.random.default_rng(0), samples)
    datatypes = {spec["name"]: spec["datatype"] for spec in service.metadata["inputs"]}
    path = f"/v2/models/{service.metadata['name']}/versions/dense/infer"
    raw = binary.build_request(inputs, datatypes)
    text = json_request(inputs, datatypes)
    unary = grpc_request(service.metadata["name"], inputs, datatypes, is_raw=True)
    typed = grpc_request(service.metadata["name"], inputs, datatypes, is_raw=False)

    def over_http(body: bytes, headers: Mapping[str, str]) -> Drive:
        return partial(client.run_closed_loop, ports.http, build_post_request(path, body, headers))

    return [
        Way(REFERENCE, samples, len(raw.body), over_http(raw.body, raw.headers)),
        Way("HTTP, JSON", samples, len(text), over_http(text, {})),
        Way(
            "gRPC, raw",
            samples,
            len(unary),
            partial(grpc_client.run_closed_loop, ports.grpc, unary),
        ),
        Way(
            "gRPC, typed",
            samples,
            len(typed),
            partial(grpc_client.run_closed_loop, ports.grpc, typed),
        ),
        Way(
            "gRPC, raw, one stream each",
            samples,
            len(unary),
            partial(grpc_client.run_closed_loop_streams, ports.grpc, unary),
        ),
    ]


def json_request(inputs: Mapping[str, npt.NDArray[Any]], datatypes: Mapping[str, str]) -> bytes:
    """Write a request that is all JSON; so is its answer."""
    tensors = [
        {"name": name, "datatype": datatypes[name], "shape": array.shape, "data": array.ravel()}
        for name, array in inputs.items()
    ]
    return orjson.dumps({"inputs": tensors}, option=orjson.OPT_SERIALIZE_NUMPY)


def grpc_request(
    model: str,
    inputs: Mapping[str, npt.NDArray[Any]],
    datatypes: Mapping[str, str],
    *,
    is_raw: bool,
) -> bytes:
    """Write a ModelInferRequest; typed contents are for inputs of FP32 only."""
    message = pb.ModelInferRequest(model_name=model, model_version="dense")
    for name, array in inputs.items():
        tensor = message.inputs.add(name=name, datatype=datatypes[name], shape=array.shape)
        if is_raw:
            message.raw_input_contents.append(array.tobytes())
        else:
            tensor.contents.fp32_contents.extend(array.ravel().tolist())
    content: bytes = message.SerializeToString()
    return content


def measure(
    found: Sequence[Way],
    clients: Sequence[int],
    rounds: int,
    seconds: float,
    on_run: Callable[[], None] = lambda: None,
) -> dict[tuple[Way, int], ThroughputPoint]:
    """Return the medians over rounds; raises `RuntimeError` if any request failed."""
    seen: dict[tuple[Way, int], list[ThroughputPoint]] = {}
    for _, count, way in product(range(rounds), clients, found):
        outcome = way.run_closed_loop(count, seconds)
        if outcome.failures or not outcome.latencies_s:
            raise RuntimeError(f"{way.name}: requests failed: {outcome.first_failure!r}")
        point = ThroughputPoint(
            outcome.requests_per_s, outcome.quantile_ms(0.5), outcome.quantile_ms(0.99)
        )
        seen.setdefault((way, count), []).append(point)
        on_run()
    return {key: middle(points) for key, points in seen.items()}


def transports_grid(points: Mapping[tuple[Way, int], ThroughputPoint], note: str) -> Grid:
    """Show all points, each with its share of what binary tensors over HTTP reach."""
    reference = {
        (way.samples, count): point.requests_per_s
        for (way, count), point in points.items()
        if way.name == REFERENCE
    }
    rows = [
        (
            way.name,
            str(way.samples),
            f"{way.request_bytes / 1e3:.1f}",
            str(count),
            f"{point.requests_per_s:,.0f}",
            f"{point.p50_ms:.2f}",
            f"{point.p99_ms:.2f}",
            f"{point.requests_per_s / reference[way.samples, count]:.2f}",
        )
        for (way, count), point in points.items()
    ]
    columns = (
        "way",
        "samples",
        "kB",
        "clients",
        "requests/s",
        "p50 ms",
        "p99 ms",
        f"x {REFERENCE}",
    )
    return Grid("Transports", columns, rows, note)


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--seconds", type=float, default=2.0, show_default=True, help="Of each run.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
def main(rounds: int, seconds: float, as_markdown: bool) -> None:
    """Measure every way to ask the service."""
    before = machine()
    points: dict[tuple[Way, int], ThroughputPoint] = {}
    with (
        Progress(console=Console(stderr=True), transient=True) as progress,
        running_service(progress) as ports,
    ):
        service = connect(f"http://127.0.0.1:{ports.http}")
        by_samples = [ways(ports, service, samples) for samples in SAMPLES]
        total = rounds * len(CLIENTS) * sum(map(len, by_samples))
        on_run = partial(progress.advance, progress.add_task("driving", total=total))
        for found in by_samples:
            points |= measure(found, CLIENTS, rounds, seconds, on_run)
    note = f"Medians of {rounds} rounds of {seconds:g} s. {before} before."
    show([transports_grid(points, note)], Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    main()

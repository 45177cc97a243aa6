"""Compares HTTP, gRPC and JSON: latency and throughput of one variant over each transport.

    python -m loadtests.benchmarks.transports [--markdown]

All transports carry the same samples to the same pinned variant, on the service that
`loadtests.benchmarks.throughput` measures. They alternate in one run. Clients, gateway and hosts
share the machine, so an expensive client lowers the throughput of its transport too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import click
import numpy as np
import numpy.typing as npt
import orjson
from rich.console import Console
from rich.progress import Progress
from tritonclient.grpc import service_pb2 as pb

from loadtests.benchmarks import options
from loadtests.benchmarks.closed_loops import (
    CLIENTS,
    Points,
    Scenario,
    ThroughputPoint,
    http_scenario,
    measure,
)
from loadtests.benchmarks.machine import describe_machine
from loadtests.benchmarks.service import run_benchmark_service
from loadtests.client import binary
from loadtests.client import grpc as grpc_client
from loadtests.client.service import ServiceDescription, connect
from loadtests.trials.grid import Grid, show
from serving.gateway.description import Ports

SAMPLES: Final = (1, 16)
"""Numbers of samples per request that are measured."""
REFERENCE: Final = "HTTP, binary"


def transports(ports: Ports, service: ServiceDescription, samples: int) -> list[Scenario]:
    """Return a scenario per transport; each request has `samples` random samples for dense."""
    inputs = binary.random_inputs(service.metadata, np.random.default_rng(0), samples)
    datatypes = {spec["name"]: spec["datatype"] for spec in service.metadata["inputs"]}
    path = f"/v2/models/{service.metadata['name']}/versions/dense/infer"
    raw = binary.build_request(inputs, datatypes)
    text = json_request(inputs, datatypes)
    unary = grpc_request(service.metadata["name"], inputs, datatypes, is_raw=True)
    typed = grpc_request(service.metadata["name"], inputs, datatypes, is_raw=False)
    return [
        http_scenario(REFERENCE, ports.http, path, raw.body, raw.headers, samples),
        http_scenario("HTTP, JSON", ports.http, path, text, {}, samples),
        Scenario(
            "gRPC, raw",
            samples,
            len(unary),
            partial(grpc_client.run_closed_loop, ports.grpc, unary),
        ),
        Scenario(
            "gRPC, typed",
            samples,
            len(typed),
            partial(grpc_client.run_closed_loop, ports.grpc, typed),
        ),
        Scenario(
            "gRPC, raw, one stream each",
            samples,
            len(unary),
            partial(grpc_client.run_closed_loop_streams, ports.grpc, unary),
        ),
    ]


def json_request(inputs: Mapping[str, npt.NDArray[Any]], datatypes: Mapping[str, str]) -> bytes:
    """Return the body of a request with JSON tensors, which is answered with JSON tensors."""
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
    """Return a serialized ModelInferRequest; typed contents require that all inputs are FP32."""
    message = pb.ModelInferRequest(model_name=model, model_version="dense")
    for name, array in inputs.items():
        tensor = message.inputs.add(name=name, datatype=datatypes[name], shape=array.shape)
        if is_raw:
            message.raw_input_contents.append(array.tobytes())
        else:
            tensor.contents.fp32_contents.extend(array.ravel().tolist())
    content: bytes = message.SerializeToString()
    return content


def transports_grid(points: Points, note: str) -> Grid:
    """Return a table of all points, each with its ratio to binary tensors over HTTP."""
    reference = {
        (scenario.samples, count): point.requests_per_s
        for (scenario, count), point in points.items()
        if scenario.name == REFERENCE
    }
    rows = [
        (
            scenario.name,
            str(scenario.samples),
            f"{scenario.request_bytes / 1e3:.1f}",
            str(count),
            f"{point.requests_per_s:,.0f}",
            f"{point.p50_ms:.2f}",
            f"{point.p99_ms:.2f}",
            f"{point.requests_per_s / reference[scenario.samples, count]:.2f}",
        )
        for (scenario, count), point in points.items()
    ]
    columns = (
        "transport",
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
@options.rounds(5)
@options.seconds(2.0)
@options.markdown
def main(rounds: int, seconds: float, as_markdown: bool) -> None:
    """Measure requests to the service over each transport."""
    before = describe_machine()
    points: dict[tuple[Scenario, int], ThroughputPoint] = {}
    with (
        Progress(console=Console(stderr=True), transient=True) as progress,
        run_benchmark_service(progress) as ports,
    ):
        service = connect(f"http://127.0.0.1:{ports.http}")
        by_samples = [transports(ports, service, samples) for samples in SAMPLES]
        total = rounds * len(CLIENTS) * sum(map(len, by_samples))
        on_run = partial(progress.advance, progress.add_task("sending requests", total=total))
        for scenarios in by_samples:
            points |= measure(scenarios, CLIENTS, rounds, seconds, on_run)
    note = f"Medians of {rounds} rounds of {seconds:g} s. {before} before."
    show([transports_grid(points, note)], Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    main()

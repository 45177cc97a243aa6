"""Measures the time to parse a request and to render a response, by encoding and size.

    python -m loadtests.benchmarks.codec [--markdown]

The functions are those of production, timed alone in one process; the encodings alternate. For
scale, the `json` module of the standard library with numpy is measured too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from statistics import median
from typing import Any, Final, NamedTuple, TypeAlias

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from tritonclient.grpc import service_pb2 as pb

from loadtests.benchmarks import options
from loadtests.benchmarks.machine import describe_machine
from loadtests.benchmarks.timing import microseconds_per_call
from loadtests.benchmarks.transports import grpc_request, json_request
from loadtests.client import binary
from loadtests.trials.grid import Grid, show
from serving.protocol.grpc import codec as grpc_codec
from serving.protocol.grpc.call import parse_message
from serving.protocol.http import codec
from serving.protocol.messages import InferResponse

SAMPLES: Final = (1, 16, 64)
"""Numbers of samples per tensor that are measured."""
WIDTH: Final = 784
"""Values per sample."""
PARAMETERS: Final = {"variant": "dense", "reason": "most accurate variant", "latency_ms": 1.25}

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]


class Encoding(NamedTuple):
    """One encoding of a message: its size in bytes, and the call that parses or renders it."""

    message_bytes: int
    call: Callable[[], object]


class Case(NamedTuple):
    """One row of the table."""

    operation: str
    encoding: str
    samples: int
    message_bytes: int
    call: Callable[[], object]


def request_parsers(inputs: Arrays) -> dict[str, Encoding]:
    """Return the parsers of a request with these inputs, by the name of the encoding."""
    datatypes = {"input": "FP32"}
    raw = binary.build_request(inputs, datatypes)
    json_bytes = int(raw.headers[binary.JSON_LENGTH_HEADER])
    text = json_request(inputs, datatypes)
    unary = grpc_request("mlp", inputs, datatypes, is_raw=True)
    typed = grpc_request("mlp", inputs, datatypes, is_raw=False)

    def parse_grpc(message: bytes) -> Callable[[], object]:
        return lambda: grpc_codec.parse_request(parse_message(pb.ModelInferRequest, message))

    return {
        "HTTP, binary": Encoding(
            len(raw.body), lambda: codec.parse_request(raw.body, json_bytes, ())
        ),
        "HTTP, JSON": Encoding(len(text), lambda: codec.parse_request(text, None, ())),
        "gRPC, raw": Encoding(len(unary), parse_grpc(unary)),
        "gRPC, typed": Encoding(len(typed), parse_grpc(typed)),
        "for scale: json and numpy": Encoding(len(text), lambda: _parse_with_numpy(text)),
    }


def response_renderers(outputs: Arrays) -> dict[str, Encoding]:
    """Return the renderers of a response with these outputs, by the name of the encoding."""
    response = InferResponse("mlp", "dense", outputs, None, PARAMETERS)
    calls: dict[str, Callable[[], bytes]] = {
        "HTTP, binary": lambda: codec.render_response(response, {}, True)[0],
        "HTTP, JSON": lambda: codec.render_response(response, {}, False)[0],
        "gRPC, raw": lambda: _serialize(grpc_codec.render_response(response)),
        "for scale: json and numpy": lambda: _render_with_numpy(response),
    }
    return {name: Encoding(len(call()), call) for name, call in calls.items()}


def measure(cases: Sequence[Case], rounds: int, seconds: float) -> list[float]:
    """Return the median time of each case over rounds, in microseconds; the cases alternate."""
    times_us: list[list[float]] = [[] for _ in cases]
    for _, index in track(list(product(range(rounds), range(len(cases)))), transient=True):
        times_us[index].append(microseconds_per_call(cases[index].call, seconds))
    return [median(values) for values in times_us]


def _parse_with_numpy(text: bytes) -> object:
    document = json.loads(text)
    return [
        np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        for tensor in document["inputs"]
    ]


def _render_with_numpy(response: InferResponse) -> bytes:
    outputs = [
        {"name": name, "shape": array.shape, "datatype": "FP32", "data": array.ravel().tolist()}
        for name, array in response.outputs.items()
    ]
    document = {"model_name": response.model_name, "parameters": PARAMETERS, "outputs": outputs}
    return json.dumps(document).encode()


def _serialize(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return content


@click.command()
@options.rounds(7)
@options.seconds(0.1)
@options.markdown
def main(rounds: int, seconds: float, as_markdown: bool) -> None:
    """Time the parsing of requests and the rendering of responses in every encoding."""
    before = describe_machine()
    rng = np.random.default_rng(0)
    cases = []
    for samples in SAMPLES:
        tensor = rng.random((samples, WIDTH), dtype=np.float32)
        for operation, encodings in (
            ("parse request", request_parsers({"input": tensor})),
            ("render response", response_renderers({"output": tensor})),
        ):
            for name, (message_bytes, call) in encodings.items():
                cases.append(Case(operation, name, samples, message_bytes, call))
    rows = [
        (
            f"{case.operation}: {case.encoding}",
            f"{case.samples} x {WIDTH}",
            f"{case.message_bytes / 1e3:,.1f}",
            f"{time_us:,.1f}",
        )
        for case, time_us in zip(cases, measure(cases, rounds, seconds), strict=True)
    ]
    note = f"One FP32 tensor. Medians of {rounds} rounds of {seconds:g} s. {before} before."
    columns = ("operation", "shape", "kB", "µs")
    grid = Grid("Parsing requests and rendering responses", columns, rows, note)
    show([grid], Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    main()

"""What it costs to read a request and to write an answer, in microseconds, by encoding and size.

    python -m loadtests.benchmarks.codec [--markdown]

The functions are those of production, timed alone in one process; the encodings take turns. Beside
them, for scale: the standard library's `json` with numpy, which is what a plain server would use.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from statistics import median
from typing import Any, Final

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from tritonclient.grpc import service_pb2 as pb

from loadtests.benchmarks.throughput import machine
from loadtests.benchmarks.transports import grpc_request, json_request
from loadtests.client import binary
from loadtests.trials.grid import Grid, show
from serving.protocol.grpc import codec as grpc_codec
from serving.protocol.grpc.call import parse_message
from serving.protocol.http import codec
from serving.protocol.messages import InferResponse

SAMPLES: Final = (1, 16, 64)
WIDTH: Final = 784
PARAMETERS: Final = {"variant": "dense", "reason": "most accurate variant", "latency_ms": 1.25}

Part = Callable[[], object]
Arrays = Mapping[str, npt.NDArray[Any]]


def readers(inputs: Arrays) -> dict[str, tuple[int, Part]]:
    """Return by encoding the bytes of a request, and what reads it."""
    datatypes = {"input": "FP32"}
    raw = binary.build_request(inputs, datatypes)
    head = int(raw.headers[binary.JSON_LENGTH_HEADER])
    text = json_request(inputs, datatypes)
    unary = grpc_request("mlp", inputs, datatypes, is_raw=True)
    typed = grpc_request("mlp", inputs, datatypes, is_raw=False)

    def read_grpc(message: bytes) -> Part:
        return lambda: grpc_codec.parse_request(parse_message(pb.ModelInferRequest, message))

    return {
        "HTTP, binary": (len(raw.body), lambda: codec.parse_request(raw.body, head, ())),
        "HTTP, JSON": (len(text), lambda: codec.parse_request(text, None, ())),
        "gRPC, raw": (len(unary), read_grpc(unary)),
        "gRPC, typed": (len(typed), read_grpc(typed)),
        "for scale: json and numpy": (len(text), lambda: _plain_read(text)),
    }


def writers(outputs: Arrays) -> dict[str, tuple[int, Part]]:
    """Return by encoding the bytes of an answer, and what writes it."""
    answer = InferResponse("mlp", "dense", outputs, None, PARAMETERS)
    parts: dict[str, Callable[[], bytes]] = {
        "HTTP, binary": lambda: codec.render_response(answer, {}, True)[0],
        "HTTP, JSON": lambda: codec.render_response(answer, {}, False)[0],
        "gRPC, raw": lambda: _bytes(grpc_codec.render_response(answer)),
        "for scale: json and numpy": lambda: _plain_write(answer),
    }
    return {name: (len(part()), part) for name, part in parts.items()}


def measure(
    cases: Sequence[tuple[str, str, int, int, Part]], rounds: int, seconds: float
) -> list[float]:
    """Return the median over rounds of each case, in microseconds; the cases take turns."""
    seen: list[list[float]] = [[] for _ in cases]
    for _, place in track(list(product(range(rounds), range(len(cases)))), transient=True):
        seen[place].append(_timed(cases[place][-1], seconds))
    return [median(values) for values in seen]


def _timed(part: Part, seconds: float) -> float:
    calls = 0
    start = time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        part()
        calls += 1
    return (now - start) / calls * 1e6


def _plain_read(text: bytes) -> object:
    document = json.loads(text)
    return [
        np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        for tensor in document["inputs"]
    ]


def _plain_write(answer: InferResponse) -> bytes:
    outputs = [
        {"name": name, "shape": array.shape, "datatype": "FP32", "data": array.ravel().tolist()}
        for name, array in answer.outputs.items()
    ]
    document = {"model_name": answer.model_name, "parameters": PARAMETERS, "outputs": outputs}
    return json.dumps(document).encode()


def _bytes(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return content


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--seconds", type=float, default=0.1, show_default=True, help="Of each case.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
def main(rounds: int, seconds: float, as_markdown: bool) -> None:
    """Time reading and writing in every encoding."""
    before = machine()
    rng = np.random.default_rng(0)
    cases = []
    for samples in SAMPLES:
        tensor = rng.random((samples, WIDTH), dtype=np.float32)
        for verb, parts in (
            ("read", readers({"input": tensor})),
            ("write", writers({"output": tensor})),
        ):
            for name, (size, part) in parts.items():
                cases.append((verb, name, samples, size, part))
    took_us = measure(cases, rounds, seconds)
    rows = [
        (f"{verb}: {name}", f"{samples} x {WIDTH}", f"{size / 1e3:,.1f}", f"{us:,.1f}")
        for (verb, name, samples, size, _), us in zip(cases, took_us, strict=True)
    ]
    note = f"One FP32 tensor. Medians of {rounds} rounds of {seconds:g} s. {before} before."
    grid = Grid("Reading requests, writing answers", ("what", "shape", "kB", "µs"), rows, note)
    show([grid], Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    main()

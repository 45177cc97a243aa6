"""What each part of a request's way costs, in microseconds per request, measured in process.

Each part is what production runs; only what is around it is made up: a scheduler that answers at
once around the data plane, a host that computes nothing around the scheduler and the link.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, Final, cast

import numpy as np
import uvloop
import zmq.asyncio
from prometheus_client import CollectorRegistry

from loadtests.benchmarks.decisions import MAX_BATCH, PROFILES, Simulation, new_planner
from loadtests.client import binary
from loadtests.trials.grid import Grid
from serving.dataplane.batching import Arrays, join
from serving.dataplane.clock import LoopClock
from serving.dataplane.dataplane import DataPlane
from serving.dataplane.executor import BatchResult
from serving.dataplane.request import RequestResult
from serving.dataplane.scheduler import Scheduler
from serving.errors import Overloaded
from serving.link.connection import HostConnection
from serving.link.host import HostSocket
from serving.protocol.documents import Documents
from serving.protocol.http.application import HttpProtocol
from serving.protocol.http.codec import parse_request, render_response
from serving.protocol.inference import Inference
from serving.protocol.messages import InferResponse
from serving.routing.latency import LatencyModel
from serving.routing.policy.pareto import pareto
from serving.routing.policy.state import LaneKey
from serving.routing.slo import DEFAULT_PRIORITY, Slo
from serving.routing.slo import parse as parse_slo
from serving.telemetry.event import Answered
from serving.telemetry.metrics import Metrics
from serving.telemetry.statistics import Statistics
from serving.telemetry.telemetry import Telemetry
from variants.catalog.catalog import Model, TensorSpec

BATCHES: Final = (1, 16, 64)
QUEUED: Final = (10, 100, 1000)
TARGET_US: Final = 200.0

TIGHT_S: Final = 0.004
"""A deadline that only so many requests can meet together."""

MODEL: Final = Model(
    name="mlp",
    factory="m:f",
    weights_sha256="",
    datasets_sha256="",
    inputs=(TensorSpec(name="input", datatype="FP32", shape=(-1, 784)),),
    outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, 10)),),
)
INPUTS: Final[Arrays] = {"input": np.zeros((1, 784), np.float32)}
OUTPUTS: Final[Arrays] = {"logits": np.zeros((1, 10), np.float32)}
PARAMETERS: Final = {"slo_latency_ms": 1000, "min_accuracy": 0.5}
SLO_HEADERS: Final = {"x-slo-latency-ms": "1000", "x-slo-min-accuracy": "0.5"}
RESULT: Final = RequestResult(
    "dense",
    OUTPUTS,
    "preferred",
    batch_size=16,
    queue_s=0.001,
    predicted_s=0.003,
    input_s=0.0001,
    compute_s=0.001,
    output_s=0.0009,
)

Part = Callable[[float], float]
"""Runs for about so many seconds, and returns the microseconds of one request."""


def measure(
    rounds: int, seconds: float, on_part: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Return by part the median over rounds; the parts take turns."""
    with _host() as address:
        parts = {**_parts(), **_batched_parts(address)}
        seen: dict[str, list[float]] = {name: [] for name in parts}
        for _ in range(rounds):
            for name, part in parts.items():
                seen[name].append(part(seconds))
                on_part()
    return {name: median(values) for name, values in seen.items()}


def count_parts() -> int:
    """Return how many parts there are, for a progress bar."""
    return len(_parts()) + len(_batched_parts(""))


def costs_grid(costs: Mapping[str, float]) -> Grid:
    """Show what each part costs."""
    rows = [(name, f"{cost:.1f}") for name, cost in costs.items()]
    return Grid("What each part costs", ("part", "µs per request"), rows)


def decisions_grid(decisions: int) -> Grid:
    """Measure and show how long a decision takes, by how many requests are queued."""
    rows = []
    for queued in QUEUED:
        run = Simulation(pareto, queued).run(decisions)
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(run.kinds.items()))
        quantiles = (f"{run.quantile_us(q):.0f}" for q in (0.5, 0.99, 0.999))
        rows.append((f"{queued:,}", *quantiles, kinds))
    return Grid(
        "One decision of the router",
        ("queued", "p50 µs", "p99 µs", "p99.9 µs", "decisions"),
        rows,
        f"{decisions:,} decisions each; the p99 is to stay under {TARGET_US:g} µs",
    )


class _InstantScheduler:
    """Stands in for the scheduler: answers at once."""

    async def submit(self, *_: Any, **__: Any) -> RequestResult[Arrays]:
        return RESULT

    def slots(self, variant: str) -> int:
        return 1


class _FullScheduler:
    """Stands in for the scheduler: its queue is full, so it refuses every request."""

    def __init__(self) -> None:
        self._planner = new_planner(pareto, lambda: 0.0, max_queue=2000)
        with suppress(Overloaded):
            while True:
                self._admit(tuple(PROFILES))

    async def submit(self, _: Any, key: LaneKey, **__: Any) -> RequestResult[Arrays]:
        self._admit(key.variants)
        raise RuntimeError("the request was admitted")

    def slots(self, variant: str) -> int:
        return 1

    def _admit(self, variants: tuple[str, ...]) -> None:
        self._planner.admit(
            None, LaneKey(variants), size=1, deadline=TIGHT_S, priority=DEFAULT_PRIORITY, now=0.0
        )


class _NoMetrics:
    """Stands in for the metrics: counts nothing and keeps the last event."""

    event: Answered

    def answered(self, event: Answered) -> None:
        self.event = event


def _parts() -> dict[str, Part]:
    request = binary.build_request(INPUTS, {"input": "FP32"}, PARAMETERS)
    head = int(request.headers[binary.JSON_LENGTH_HEADER])
    slo = parse_slo(PARAMETERS, {}, Slo())
    metrics = Metrics(CollectorRegistry(), "mlp")
    no_metrics = _NoMetrics()
    whole, uncounted = _dataplane(metrics), _dataplane(cast(Metrics, no_metrics))
    refusing = _dataplane(metrics, _FullScheduler())
    answer = _now(uncounted.infer(INPUTS, (), slo, None, time.monotonic()))
    response = InferResponse("mlp", "dense", OUTPUTS, None, answer.explanation)
    answers, refuses = _protocol(whole), _protocol(refusing)
    statistics = Statistics(PROFILES)

    scope, receive = _scope(request), _receiver(request.body)

    return {
        "parse the body (binary tensors, 3.1 kB)": _timed(
            lambda: parse_request(request.body, head)
        ),
        "parse the SLO from parameters": _timed(lambda: parse_slo(PARAMETERS, {}, Slo())),
        "parse the SLO from headers": _timed(lambda: parse_slo({}, SLO_HEADERS, Slo())),
        "check, qualify, explain (data plane, uncounted)": _timed(
            lambda: _now(uncounted.infer(INPUTS, (), slo, None, time.monotonic()))
        ),
        "of that, explain": _timed(
            # Private, but timed separately: it is all that routing adds to an answer.
            lambda: uncounted._answer(RESULT, slo, None, ("dense", "int8"), time.monotonic())
        ),
        "count (metrics)": _timed(lambda: metrics.answered(no_metrics.event)),
        "count (statistics)": _timed(lambda: statistics.answered(no_metrics.event)),
        "render the answer": _timed(lambda: render_response(response, {}, True)),
        "all of these, routes and headers: the ASGI call": _timed(
            lambda: _now(answers(scope, receive, partial(_send, 200)))
        ),
        "the same where it is refused: 429": _timed(
            lambda: _now(refuses(scope, receive, partial(_send, 429)))
        ),
    }


def _batched_parts(address: str) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    for size in BATCHES:
        parts[f"queue, decide, dispatch: {size} at a time"] = partial(
            _in_loop, partial(_schedule, size)
        )
    for size in BATCHES:
        parts[f"link, there and back: batch of {size}"] = partial(
            _in_loop, partial(_round_trips, address, size)
        )
    return parts


def _protocol(dataplane: DataPlane) -> HttpProtocol:
    return HttpProtocol(
        dataplane,
        Inference(dataplane, Slo()),
        Documents(dataplane, ""),
        CollectorRegistry(),
        max_body_bytes=2**20,
    )


def _dataplane(metrics: Metrics, scheduler: object | None = None) -> DataPlane:
    latency = LatencyModel({n: o.latencies for n, o in PROFILES.items()}, time.monotonic)
    return DataPlane(
        MODEL,
        PROFILES,
        cast("Scheduler[Arrays, Arrays]", scheduler or _InstantScheduler()),
        latency,
        Telemetry(metrics, Statistics(PROFILES)),
        time.monotonic,
        max_batch=MAX_BATCH,
    )


def _timed(call: Callable[[], object]) -> Part:
    def part(seconds: float) -> float:
        calls = 0
        start = time.perf_counter()
        while (elapsed_s := time.perf_counter() - start) < seconds:
            for _ in range(50):
                call()
            calls += 50
        return elapsed_s / calls * 1e6

    return part


def _in_loop(measure: Callable[[float], Coroutine[Any, Any, float]], seconds: float) -> float:
    return uvloop.run(measure(seconds))


def _now(coroutine: Any) -> Any:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("it waited")


def _scope(request: binary.BinaryRequest) -> Mapping[str, Any]:
    headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
    headers.append((b"content-length", str(len(request.body)).encode()))
    return {"path": "/v2/models/mlp/infer", "method": "POST", "headers": headers}


def _receiver(body: bytes) -> Callable[[], Awaitable[Mapping[str, Any]]]:
    async def receive() -> Mapping[str, Any]:
        return {"type": "http.request", "body": body}

    return receive


async def _send(status: int, message: Mapping[str, Any]) -> None:
    if message.get("status", status) != status:
        raise RuntimeError(f"expected {status}: {message}")


async def _schedule(clients: int, seconds: float) -> float:
    """Submit requests from this many clients in a closed loop, to hosts that compute nothing."""

    async def run(variant: str, requests: Sequence[Arrays]) -> BatchResult[Sequence[Arrays]]:
        await asyncio.sleep(0)
        return BatchResult(requests, 0.0)

    clock = LoopClock()
    scheduler = Scheduler(new_planner(pareto, clock.time, max(BATCHES)), run, clock)
    key = LaneKey(tuple(PROFILES))
    until = time.perf_counter() + seconds

    async def client() -> int:
        count, is_over = 0, False
        while not is_over:
            deadline = clock.time() + 1.0
            await scheduler.submit(INPUTS, key, size=1, deadline=deadline, priority=10)
            count, is_over = count + 1, time.perf_counter() >= until
        return count

    start = time.perf_counter()
    counts = await asyncio.gather(*(client() for _ in range(clients)))
    return (time.perf_counter() - start) / sum(counts) * 1e6


async def _round_trips(address: str, size: int, seconds: float) -> float:
    """Send batches to another process, one after the other."""
    context = zmq.asyncio.Context()
    host = HostConnection(context, address, on_lost=lambda: None)
    inputs = [INPUTS] * size
    until = time.perf_counter() + seconds
    count = 0
    try:
        await host.run(join(inputs))
        start = time.perf_counter()
        while time.perf_counter() < until or not count:
            await host.run(join(inputs))
            count += 1
        return (time.perf_counter() - start) / count / size * 1e6
    finally:
        host.close()
        context.destroy(linger=0)


@contextmanager
def _host() -> Iterator[str]:
    """Run a host that computes nothing in a process of its own; gives its address."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_compute_nothing, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()


def _compute_nothing(pipe: Connection) -> None:
    def run(inputs: Arrays) -> Arrays:
        return {"logits": np.zeros((len(inputs["input"]), 10), np.float32)}

    socket = HostSocket(run)
    pipe.send(socket.address)
    pipe.recv()
    socket.close()

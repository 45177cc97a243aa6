"""Times the protocol and the data plane around a stub of the scheduler."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias, cast

import numpy as np
from prometheus_client import CollectorRegistry

from loadtests.benchmarks.decisions import MAX_BATCH, PROFILES, new_latency_model, new_planner
from loadtests.benchmarks.timing import microseconds_per_call
from loadtests.client import binary
from loadtests.client.binary import BinaryRequest
from serving.dataplane.batching import Arrays
from serving.dataplane.dataplane import DataPlane
from serving.dataplane.gateway_delay import Admission
from serving.dataplane.load_shedder import LoadShedder
from serving.dataplane.request import RequestResult
from serving.dataplane.scheduler import Scheduler
from serving.dataplane.served import ServedVariants
from serving.errors import Overloaded
from serving.protocol.documents import Documents
from serving.protocol.http.application import HttpProtocol
from serving.protocol.http.codec import parse_request, render_response
from serving.protocol.inference import Inference
from serving.protocol.messages import InferResponse
from serving.routing.policy.pareto import pareto
from serving.routing.policy.state import LaneKey
from serving.routing.slo import DEFAULT_PRIORITY, Slo
from serving.routing.slo import parse as parse_slo
from serving.telemetry.event import Answered
from serving.telemetry.metrics import Metrics
from serving.telemetry.statistics import Statistics
from serving.telemetry.telemetry import Telemetry
from variants.catalog.catalog import Model, TensorSpec

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
BY_KEY: Final = {profile.key: profile for profile in PROFILES.values()}
RESULT: Final = RequestResult(
    PROFILES["dense"].key,
    OUTPUTS,
    "preferred",
    batch_size=16,
    queue_s=0.001,
    predicted_s=0.003,
    input_s=0.0001,
    compute_s=0.001,
    output_s=0.0009,
    returned_at=0.0,
)

DEADLINE_S: Final = 0.004
"""Deadline of the refused requests, in seconds: a limited number of requests can meet it."""
FULL_QUEUE: Final = 2000
"""Maximum length of the queue for the refused requests. The deadline limits it further."""
CALLS_PER_READING: Final = 50
"""Calls between two readings of the clock."""

Part: TypeAlias = Callable[[float], float]
"""Runs for about the given number of seconds; returns the microseconds per request."""


class _InstantScheduler:
    """Stub of the scheduler that answers at once."""

    async def submit(self, *_: Any, **__: Any) -> RequestResult[Arrays]:
        return RESULT

    def slots(self, variant: str) -> int:
        return 1


class _FullScheduler:
    """Stub of the scheduler with a full queue: it refuses every request."""

    def __init__(self) -> None:
        self._planner = new_planner(pareto, lambda: 0.0, FULL_QUEUE, BY_KEY)
        with suppress(Overloaded):
            while True:
                self._admit(tuple(BY_KEY))

    async def submit(self, _: Any, key: LaneKey, **__: Any) -> RequestResult[Arrays]:
        self._admit(key.variants)
        raise RuntimeError("the request was admitted")

    def slots(self, variant: str) -> int:
        return 1

    def _admit(self, variants: tuple[str, ...]) -> None:
        self._planner.admit(
            None,
            LaneKey(variants),
            size=1,
            deadline=DEADLINE_S,
            priority=DEFAULT_PRIORITY,
            now=0.0,
        )


class _LastEvent:
    """Stub of the metrics that keeps the last event and counts nothing."""

    event: Answered

    def answered(self, event: Answered) -> None:
        self.event = event


def _admitted(slo: Slo) -> Admission:
    """Return the admission of a request that is received and parsed at this moment."""
    now = time.monotonic()
    return Admission(now, slo.latency_s, now, now + slo.latency_s)


def request_parts() -> dict[str, Part]:
    """Return the parts of a request in the gateway's protocol and data plane, by name."""
    request = binary.build_request(INPUTS, {"input": "FP32"}, PARAMETERS)
    json_bytes = int(request.headers[binary.JSON_LENGTH_HEADER])
    slo = parse_slo(PARAMETERS, {}, Slo())
    metrics = Metrics(CollectorRegistry(), "mlp")
    metrics.serve(BY_KEY)
    statistics = Statistics(BY_KEY)
    last_event = _LastEvent()
    uncounted = _data_plane(cast(Metrics, last_event), _InstantScheduler())
    served = ServedVariants(PROFILES)
    answer = _run_now(uncounted.infer(INPUTS, (), slo, None, time.monotonic()))
    response = InferResponse("mlp", "dense", OUTPUTS, None, answer.explanation)
    answering = _protocol(_data_plane(metrics, _InstantScheduler()))
    refusing = _protocol(_data_plane(metrics, _FullScheduler()))
    scope, receive = _scope(request), _receiver(request.body)
    calls: dict[str, Callable[[], object]] = {
        "parse the body (binary tensors, 3.1 kB)": lambda: parse_request(request.body, json_bytes),
        "parse the SLO from parameters": lambda: parse_slo(PARAMETERS, {}, Slo()),
        "parse the SLO from headers": lambda: parse_slo({}, SLO_HEADERS, Slo()),
        "validate, find variants, explain (data plane, uncounted)": lambda: _run_now(
            uncounted.infer(INPUTS, (), slo, None, time.monotonic())
        ),
        # Private, but timed separately: it is all that routing adds to a response.
        "of that, explain": lambda: uncounted._answer(
            RESULT, slo, served, None, tuple(served.by_key), _admitted(slo)
        ),
        "count (metrics)": lambda: metrics.answered(last_event.event),
        "count (statistics)": lambda: statistics.answered(last_event.event),
        "render the response": lambda: render_response(response, {}, True),
        "all of these, routes and headers: the ASGI call": lambda: _run_now(
            answering(scope, receive, partial(_check_status, 200))
        ),
        "the same for a refused request: 429": lambda: _run_now(
            refusing(scope, receive, partial(_check_status, 429))
        ),
    }
    return {
        name: partial(microseconds_per_call, call, calls_per_reading=CALLS_PER_READING)
        for name, call in calls.items()
    }


def _protocol(dataplane: DataPlane) -> HttpProtocol:
    return HttpProtocol(
        dataplane,
        Inference(dataplane, Slo()),
        Documents(dataplane, ""),
        CollectorRegistry(),
        max_body_bytes=2**20,
    )


def _data_plane(metrics: Metrics, scheduler: _InstantScheduler | _FullScheduler) -> DataPlane:
    return DataPlane(
        MODEL,
        PROFILES,
        cast("Scheduler[Arrays, Arrays]", scheduler),
        new_latency_model(time.monotonic, BY_KEY),
        Telemetry(metrics, Statistics(BY_KEY)),
        time.monotonic,
        max_batch=MAX_BATCH,
        shedder=LoadShedder(),
    )


def _run_now(coroutine: Any) -> Any:
    """Run a coroutine that never waits; raises RuntimeError if it does."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("the coroutine waited")


def _scope(request: BinaryRequest) -> Mapping[str, Any]:
    headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
    headers.append((b"content-length", str(len(request.body)).encode()))
    return {"path": "/v2/models/mlp/infer", "method": "POST", "headers": headers}


def _receiver(body: bytes) -> Callable[[], Awaitable[Mapping[str, Any]]]:
    async def receive() -> Mapping[str, Any]:
        return {"type": "http.request", "body": body}

    return receive


async def _check_status(status: int, message: Mapping[str, Any]) -> None:
    if message.get("status", status) != status:
        raise RuntimeError(f"expected {status}: {message}")

"""Times the protocol and the data plane around a stub of the scheduler."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias, cast

import numpy as np
import orjson
from prometheus_client import CollectorRegistry

from loadtests.benchmarks.decisions import MAX_BATCH, PROFILES, new_latency_model, new_planner
from loadtests.benchmarks.timing import microseconds_per_call
from loadtests.client import binary
from loadtests.client.binary import BinaryRequest
from serving.dataplane.batching import Arrays
from serving.dataplane.call import Answer, Call
from serving.dataplane.dataplane import DataPlane
from serving.dataplane.delivery import Delivery
from serving.dataplane.load_shedder import LoadShedder
from serving.dataplane.request import OnEnd, RequestResult
from serving.dataplane.scheduler import Scheduler
from serving.errors import Overloaded
from serving.protocol.front_door import FrontDoor
from serving.protocol.http.codec import parse_request, render_response
from serving.protocol.http.connection import Connection
from serving.protocol.http.description import MAX_KEPT
from serving.protocol.http.inference_endpoint import InferenceEndpoint
from serving.protocol.http.site import Site
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

    def submit(self, *_: Any, on_end: OnEnd[RequestResult[Arrays]], **__: Any) -> None:
        on_end(RESULT)

    def slots(self, variant: str) -> int:
        return 1


class _FullScheduler:
    """Stub of the scheduler with a full queue: it refuses every request."""

    def __init__(self) -> None:
        self._planner = new_planner(pareto, lambda: 0.0, FULL_QUEUE, BY_KEY)
        with suppress(Overloaded):
            while True:
                self._admit(tuple(BY_KEY))

    def submit(self, _: Any, key: LaneKey, **__: Any) -> None:
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


class _Wire(asyncio.Transport):
    """Stub of a connection's transport that checks the status of each response."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self._begins = b"HTTP/1.1 %d " % status

    def write(self, data: Any) -> None:
        if not data.startswith(self._begins):
            raise RuntimeError(f"expected {self._begins!r}: {data!r:.200}")

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        raise RuntimeError("reading was paused")


class _LastEvent:
    """Stub of the metrics that keeps the last event and counts nothing."""

    event: Answered

    def answered(self, event: Answered) -> None:
        self.event = event


def request_parts() -> dict[str, Part]:
    """Return the parts of a request in the gateway's protocol and data plane, by name."""
    request = binary.build_request(INPUTS, {"input": "FP32"}, PARAMETERS)
    json_bytes = int(request.headers[binary.JSON_LENGTH_HEADER])
    new = itertools.cycle([_with_id(request, f"{n:04}") for n in range(2 * MAX_KEPT)])
    slo = parse_slo(PARAMETERS, {}, Slo())
    metrics = Metrics(CollectorRegistry(), "mlp")
    metrics.serve(BY_KEY)
    statistics = Statistics(BY_KEY)
    last_event = _LastEvent()
    uncounted = _data_plane(cast(Metrics, last_event), _InstantScheduler())
    answers: list[Answer | Exception] = []
    delivery = Delivery()

    def submit(on_end: OnEnd[Answer]) -> Call:
        return uncounted.submit(INPUTS, (), slo, None, time.monotonic(), on_end, delivery)

    call = submit(answers.append)
    (answer,) = answers
    assert isinstance(answer, Answer)
    response = InferResponse("mlp", "dense", OUTPUTS, None, answer.explanation)
    answering = _data_plane(metrics, _InstantScheduler())
    refusing = _data_plane(metrics, _FullScheduler())
    message = _message(request)
    calls: dict[str, Callable[[], object]] = {
        "parse the body (binary tensors, 3.1 kB)": lambda: parse_request(request.body, json_bytes),
        "the same with a JSON part that was not sent before": lambda: parse_request(*next(new)),
        "parse the SLO from parameters": lambda: parse_slo(PARAMETERS, {}, Slo()),
        "parse the SLO from headers": lambda: parse_slo({}, SLO_HEADERS, Slo()),
        "validate, find variants, explain (data plane, uncounted)": lambda: submit(_ignore),
        # Private, but timed separately: it is all that routing adds to a response.
        "of that, explain": lambda: uncounted._answer(call, RESULT),
        "count (metrics)": lambda: metrics.answered(last_event.event),
        "count (statistics)": lambda: statistics.answered(last_event.event),
        "render the response": lambda: render_response(response, {}, True),
    }
    return {
        **{
            name: partial(microseconds_per_call, call, calls_per_reading=CALLS_PER_READING)
            for name, call in calls.items()
        },
        "all of these, and HTTP: from bytes to bytes": partial(_run, answering, 200, message),
        "the same for a refused request: 429": partial(_run, refusing, 429, message),
    }


def _ignore(answer: object) -> None:
    pass


def _run(dataplane: DataPlane, status: int, message: bytes, seconds: float) -> float:
    """Time a connection whose requests are answered with `status`, at once."""

    async def run() -> float:
        connection = _connection(dataplane, status)
        return microseconds_per_call(
            lambda: connection.data_received(message),
            seconds,
            calls_per_reading=CALLS_PER_READING,
        )

    return asyncio.run(run())


def _connection(dataplane: DataPlane, status: int) -> Connection:
    site = Site(
        app=_no_application,
        endpoint=InferenceEndpoint(dataplane, Inference(dataplane, Slo()), max_body_bytes=2**20),
        front_door=FrontDoor(_OpenDoor(), on_refused=lambda: None),
    )
    connection = Connection(site)
    connection.connection_made(_Wire(status))
    return connection


class _OpenDoor(LoadShedder):
    """A load shedder that lets everything in."""

    def is_open(self, now: float, age_s: float, rank: int, allowed_s: float | None = None) -> bool:
        return True


async def _no_application(*_: object) -> None:
    raise RuntimeError("inference requests are not for the application")


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


def _with_id(request: BinaryRequest, name: str) -> tuple[bytes, int]:
    """Return the body of a request with an id, and the length of its JSON part."""
    length = int(request.headers[binary.JSON_LENGTH_HEADER])
    json = orjson.dumps({**orjson.loads(request.body[:length]), "id": name})
    return json + request.body[length:], len(json)


def _message(request: BinaryRequest) -> bytes:
    headers = {**request.headers, "host": "127.0.0.1", "content-length": str(len(request.body))}
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(["POST /v2/models/mlp/infer HTTP/1.1", *lines, "", ""])
    return head.encode() + request.body

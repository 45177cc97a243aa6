"""All malformed requests of the table, over both transports, sent to one running service.

Each gets its error. Afterwards the gateway is the same process, and its memory has not grown.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.errors import STATUS
from tests.conformance.cases import MODEL
from tests.service import RunningService, images, metric_value
from tests.serving.protocol.malformed.case import Malformed
from tests.serving.protocol.malformed.table import OVER_GRPC, OVER_HTTP, each

pytestmark = pytest.mark.cluster

INFER = f"/v2/models/{MODEL}/infer"
MIB = 2**20
LIMIT_BYTES = 8 * MIB
"""Maximum size of a body and of a message: the default setting."""

TOO_LARGE = bytes(LIMIT_BYTES + MIB)
INVALID = b"\xff" * LIMIT_BYTES
BOMB = gzip.compress(bytes(2**28))


@dataclass(frozen=True)
class Large:
    """A body that the gateway reads up to its limit, or rejects unread."""

    rule: str
    status: int
    content: bytes | list[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)


LARGE = (
    Large("not JSON, as large as the limit", 400, INVALID),
    Large("too large by its content length", 413, TOO_LARGE),
    Large("too large in chunks", 413, [TOO_LARGE[:MIB]] * 9),
    Large("a decompression bomb", 413, BOMB, {"content-encoding": "gzip"}),
)

LARGE_MESSAGES = ((INVALID, "INVALID_ARGUMENT"), (TOO_LARGE, "RESOURCE_EXHAUSTED"))

IN_TREATMENT = b"\xff"
"""A unit that is not UTF-8 and gets the arm `treatment`, as one unit in five does."""

WARM_UP = 3
"""Rounds before the measurement, until the memory of the allocator is stable."""

ROUNDS = 20
GROWTH_BYTES = 64 * MIB
"""Maximum growth of the memory. The gateway reads 8 MiB of each of four large requests per round: a
leak of one of them would be 160 MiB, and of all 640 MiB."""


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture
def channel(service: RunningService) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}", options) as channel:
        yield channel


def post(client: httpx.Client, case: Malformed) -> httpx.Response:
    assert case.http is not None
    return client.post(INFER, content=case.http.body, headers=case.http.all_headers)


def post_large(client: httpx.Client, large: Large) -> httpx.Response:
    return client.post(INFER, content=large.content, headers=large.headers)


def call_error(channel: grpc.Channel, message: bytes) -> Any:
    infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        infer(message, timeout=60)
    return caught.value


def for_model(case: Malformed) -> bytes:
    """Return the bytes of the message, addressed to the model of the service."""
    if isinstance(case.grpc, bytes):
        return case.grpc
    message = pb.ModelInferRequest()
    message.CopyFrom(case.grpc)
    message.model_name = MODEL
    content: bytes = message.SerializeToString()
    return content


@each(OVER_HTTP)
def test_over_http(http: httpx.Client, case: Malformed) -> None:
    response = post(http, case)
    assert case.http is not None
    assert response.status_code == STATUS[case.error].http
    if case.http.json_length != 0:  # the error of a raw request depends on the model
        assert case.message in response.json()["error"]


@each(OVER_GRPC)
def test_over_grpc(channel: grpc.Channel, case: Malformed) -> None:
    error = call_error(channel, for_model(case))
    assert error.code().name == STATUS[case.error].grpc
    assert case.message in error.details()


def test_large_headers_over_http(http: httpx.Client) -> None:
    response = http.post(INFER, content=b"", headers={"x-many": "x" * 70_000})
    assert response.status_code == 431
    assert list(response.json()) == ["error"]


@pytest.mark.parametrize("large", LARGE, ids=lambda large: large.rule)
def test_large_bodies_over_http(http: httpx.Client, large: Large) -> None:
    response = post_large(http, large)
    assert response.status_code == large.status
    assert list(response.json()) == ["error"]


def test_a_unit_may_be_any_bytes_over_http(service: RunningService, http: httpx.Client) -> None:
    http.headers = httpx.Headers([(b"x-experiment-unit", IN_TREATMENT)])
    for seed in range(8):  # without the unit, most requests would get another arm
        response = service.infer(http, images(1, seed))
        assert response.status_code == 200
        assert response.json()["parameters"]["arm"] == "treatment"


@pytest.mark.parametrize(
    "path",
    ["/v2/models/%00/infer", "/v2/models/%ff%fe/infer", "/v2/models/%2e%2e/infer", "/v2/%F0%9F%92"],
)
def test_odd_names_over_http(http: httpx.Client, path: str) -> None:
    response = http.post(path, content=b"{}")
    assert response.status_code == 404
    assert list(response.json()) == ["error"]


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"\xff" * 100, "INVALID_ARGUMENT"),
        (pb.ModelInferRequest(model_name="\0").SerializeToString(), "NOT_FOUND"),
        *LARGE_MESSAGES,
    ],
    ids=["not protobuf", "NUL", "as large as the limit", "too large"],
)
def test_bytes_and_sizes_over_grpc(channel: grpc.Channel, message: bytes, status: str) -> None:
    assert call_error(channel, message).code().name == status


def test_the_gateway_keeps_its_process_and_its_memory(
    service: RunningService, http: httpx.Client, channel: grpc.Channel
) -> None:
    def send_all() -> None:
        for case in OVER_HTTP:
            assert post(http, case).status_code == STATUS[case.error].http
        for large in LARGE:
            assert post_large(http, large).status_code == large.status
        for case in OVER_GRPC:
            assert call_error(channel, for_model(case)).code().name == STATUS[case.error].grpc
        for content, status in LARGE_MESSAGES:
            assert call_error(channel, content).code().name == status

    for _ in range(WARM_UP):
        send_all()
    before = http.get("/metrics").text
    for _ in range(ROUNDS):
        send_all()
    after = http.get("/metrics").text
    started = "process_start_time_seconds"
    assert metric_value(after, started) == metric_value(before, started)
    memory = "process_resident_memory_bytes"
    assert metric_value(after, memory) < metric_value(before, memory) + GROWTH_BYTES
    assert metric_value(after, "paretoserve_queue_length") == 0
    response = service.infer(http, images(1))
    assert response.status_code == 200

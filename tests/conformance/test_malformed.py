"""Everything malformed that the tests know, over both transports, to one running service.

Each is refused with its status, and afterwards the gateway is the same process, as large as before.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.conformance.cases import MODEL
from tests.service import Service, images, metric
from tests.serving.protocol import malformed, malformed_grpc

INFER = f"/v2/models/{MODEL}/infer"
ROUNDS = 3
GROWTH_BYTES = 32 * 2**20
"""A leak of the bodies alone would be more: the tables send some 10 MB, and the large ones 100."""

LARGE = {"an endless body": bytes(9 * 2**20), "a bomb": gzip.compress(bytes(2**28))}


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture
def channel(service: Service) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}", options) as channel:
        yield channel


def ask(client: httpx.Client, case: malformed.Malformed) -> httpx.Response:
    headers = {}
    if case.json_length is not None:
        headers["inference-header-content-length"] = str(case.json_length)
    return client.post(INFER, content=case.body, headers=headers)


def ask_grpc(channel: grpc.Channel, message: bytes) -> Any:
    infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as refused:
        infer(message, timeout=60)
    return refused.value


def for_model(case: malformed_grpc.Malformed) -> bytes:
    message = pb.ModelInferRequest()
    message.CopyFrom(case.message)
    message.model_name = MODEL
    content: bytes = message.SerializeToString()
    return content


@pytest.mark.parametrize("case", malformed.MALFORMED, ids=lambda case: case.rule)
def test_over_http(http: httpx.Client, case: malformed.Malformed) -> None:
    response = ask(http, case)
    assert response.status_code == 400
    if case.json_length != 0:  # what a raw request should have been depends on the model
        assert case.message in response.json()["error"]


@pytest.mark.parametrize("case", malformed.UNSUPPORTED, ids=lambda case: case.rule)
def test_extensions_over_http(http: httpx.Client, case: malformed.Malformed) -> None:
    assert ask(http, case).status_code == 501


@pytest.mark.parametrize("case", malformed_grpc.MALFORMED, ids=lambda case: case.rule)
def test_over_grpc(channel: grpc.Channel, case: malformed_grpc.Malformed) -> None:
    error = ask_grpc(channel, for_model(case))
    assert error.code().name == case.status
    assert case.text in error.details()


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({}, LARGE["an endless body"], 413),
        ({"content-encoding": "gzip"}, LARGE["a bomb"], 413),
        ({"content-encoding": "deflate"}, b"\x78\x9c" + bytes(100), 400),
        ({"x-many": "x" * 70_000}, b"", 431),
        ({"inference-header-content-length": "18446744073709551616"}, b"{}", 400),
        ({"x-slo-latency-ms": "nan"}, b"{}", 400),
        ({"x-slo-latency-ms": "1e400"}, b"{}", 400),
        ({"x-experiment-unit": "\xff"}, b"{}", 400),
    ],
    ids=["body", "bomb", "deflate", "headers", "length", "nan", "infinity", "latin"],
)
def test_sizes_and_headers_over_http(
    http: httpx.Client, headers: dict[str, str], content: bytes, status: int
) -> None:
    coded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    response = http.post(INFER, content=content, headers=coded)
    assert response.status_code == status
    assert list(response.json()) == ["error"]


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
        (bytes(9 * 2**20), "RESOURCE_EXHAUSTED"),
    ],
    ids=["garbage", "NUL", "an endless message"],
)
def test_bytes_and_sizes_over_grpc(channel: grpc.Channel, message: bytes, status: str) -> None:
    assert ask_grpc(channel, message).code().name == status


def test_the_gateway_is_what_it_was_after_all_of_them(
    service: Service, http: httpx.Client, channel: grpc.Channel
) -> None:
    def everything() -> None:
        for case in (*malformed.MALFORMED, *malformed.UNSUPPORTED):
            assert ask(http, case).status_code >= 400
        for message in malformed_grpc.MALFORMED:
            ask_grpc(channel, for_model(message))
        for content in LARGE.values():
            http.post(INFER, content=content, headers={"content-encoding": "gzip"})

    everything()
    before = http.get("/metrics").text
    for _ in range(ROUNDS):
        everything()
    after = http.get("/metrics").text
    started = "process_start_time_seconds"
    assert metric(after, started) == metric(before, started)
    memory = "process_resident_memory_bytes"
    assert metric(after, memory) < metric(before, memory) + GROWTH_BYTES
    assert metric(after, "paretoserve_queue_length") == 0
    answer = service.infer(http, images(1))
    assert answer.status_code == 200

"""Everything malformed that the tests know, over both transports, to one running service.

Each is refused with its status, and afterwards the gateway is the same process, as large as before.
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

from tests.conformance.cases import MODEL
from tests.service import RunningService, images, metric_value
from tests.serving.protocol.grpc import malformed as malformed_grpc
from tests.serving.protocol.http import malformed

pytestmark = pytest.mark.cluster

INFER = f"/v2/models/{MODEL}/infer"
MIB = 2**20
LIMIT_BYTES = 8 * MIB
"""What a body, and a message, may have here: the default."""

ENDLESS = bytes(LIMIT_BYTES + MIB)
GARBAGE = b"\xff" * LIMIT_BYTES
BOMB = gzip.compress(bytes(2**28))


@dataclass(frozen=True)
class Large:
    """A body that the gateway takes in as far as its limit, or refuses unread."""

    rule: str
    status: int
    content: bytes | list[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)


LARGE = (
    Large("no JSON, and as large as may be", 400, GARBAGE),
    Large("too large, and said so", 413, ENDLESS),
    Large("too large, in chunks", 413, [ENDLESS[:MIB]] * 9),
    Large("a bomb", 413, BOMB, {"content-encoding": "gzip"}),
)

LARGE_MESSAGES = ((GARBAGE, "INVALID_ARGUMENT"), (ENDLESS, "RESOURCE_EXHAUSTED"))

IN_TREATMENT = b"\xff"
"""A unit of the experiment that no UTF-8 has, in the arm of one unit in five."""

WARM_UP = 3
"""Rounds until the allocator has about what it will keep."""

ROUNDS = 20
GROWTH_BYTES = 64 * MIB
"""A round has four large bodies and messages of which the gateway takes in 8 MiB: a leak of any one
of them would be 160 MiB, and one of them all 640."""


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture
def channel(service: RunningService) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}", options) as channel:
        yield channel


def ask(client: httpx.Client, case: malformed.Malformed) -> httpx.Response:
    headers = {}
    if case.json_length is not None:
        headers["inference-header-content-length"] = str(case.json_length)
    return client.post(INFER, content=case.body, headers=headers)


def ask_large(client: httpx.Client, large: Large) -> httpx.Response:
    return client.post(INFER, content=large.content, headers=large.headers)


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
        ({"content-encoding": "deflate"}, b"\x78\x9c" + bytes(100), 400),
        ({"x-many": "x" * 70_000}, b"", 431),
        ({"inference-header-content-length": "18446744073709551616"}, b"{}", 400),
    ],
    ids=["deflate", "headers", "length"],
)
def test_headers_that_do_not_describe_the_body_over_http(
    http: httpx.Client, headers: dict[str, str], content: bytes, status: int
) -> None:
    response = http.post(INFER, content=content, headers=headers)
    assert response.status_code == status
    assert list(response.json()) == ["error"]


@pytest.mark.parametrize("large", LARGE, ids=lambda large: large.rule)
def test_large_bodies_over_http(http: httpx.Client, large: Large) -> None:
    response = ask_large(http, large)
    assert response.status_code == large.status
    assert list(response.json()) == ["error"]


@pytest.mark.parametrize(
    ("value", "shown"), [("nan", "nan"), ("1e400", "inf"), ("-inf", "-inf"), ("soon", "'soon'")]
)
def test_numbers_that_are_none_in_headers_over_http(
    service: RunningService, http: httpx.Client, value: str, shown: str
) -> None:
    response = service.infer(http, images(1), headers={"x-slo-latency-ms": value})
    assert response.status_code == 400
    assert response.json() == {
        "error": f"header x-slo-latency-ms must be a number of milliseconds above 0, got {shown}"
    }


def test_a_unit_may_be_any_bytes_over_http(service: RunningService, http: httpx.Client) -> None:
    http.headers = httpx.Headers([(b"x-experiment-unit", IN_TREATMENT)])
    for seed in range(8):  # did the unit not count, it would be another arm for most
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
    ids=["garbage", "NUL", "as large as may be", "too large"],
)
def test_bytes_and_sizes_over_grpc(channel: grpc.Channel, message: bytes, status: str) -> None:
    assert ask_grpc(channel, message).code().name == status


def test_the_gateway_is_what_it_was_after_all_of_them(
    service: RunningService, http: httpx.Client, channel: grpc.Channel
) -> None:
    def everything() -> None:
        for case in malformed.MALFORMED:
            assert ask(http, case).status_code == 400
        for case in malformed.UNSUPPORTED:
            assert ask(http, case).status_code == 501
        for large in LARGE:
            assert ask_large(http, large).status_code == large.status
        for message in malformed_grpc.MALFORMED:
            assert ask_grpc(channel, for_model(message)).code().name == message.status
        for content, status in LARGE_MESSAGES:
            assert ask_grpc(channel, content).code().name == status

    for _ in range(WARM_UP):
        everything()
    before = http.get("/metrics").text
    for _ in range(ROUNDS):
        everything()
    after = http.get("/metrics").text
    started = "process_start_time_seconds"
    assert metric_value(after, started) == metric_value(before, started)
    memory = "process_resident_memory_bytes"
    assert metric_value(after, memory) < metric_value(before, memory) + GROWTH_BYTES
    assert metric_value(after, "paretoserve_queue_length") == 0
    answer = service.infer(http, images(1))
    assert answer.status_code == 200

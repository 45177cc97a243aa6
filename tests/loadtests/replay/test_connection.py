"""Responses in several parts, and bytes that are not responses."""

from __future__ import annotations

import asyncio

import pytest

from loadtests.replay.connection import ClientConnection
from loadtests.replay.replay import ReplayResult, run_replay
from loadtests.trials.outcomes import RequestStatus
from tests.loadtests.gateway_stub import RESPONSE, respond
from tests.loadtests.replay.workloads import workload
from tests.loadtests.server import PAUSE_S, ok, tiny_server


def run_with(response: bytes | tuple[bytes, bytes] | None, requests: int = 2) -> ReplayResult:
    """Replay over one connection against a service that gives `response` to every inference."""

    def respond_to(number: int, head: bytes) -> bytes | tuple[bytes, bytes] | None:
        return respond(number, head) if head.startswith(b"GET") else response

    with tiny_server(respond_to) as port:
        url = f"http://127.0.0.1:{port}"
        return run_replay(url, workload([0.0] * requests), connections=1, grace_s=60)


class Owner:
    """An owner of connections that records the answered requests."""

    def __init__(self) -> None:
        self.answered: list[int] = []

    def on_open(self, connection: ClientConnection) -> None: ...

    def on_response(
        self, connection: ClientConnection, number: int, now_s: float, status: int, content: bytes
    ) -> None:
        self.answered.append(number)

    def on_lost(self, connection: ClientConnection, number: int | None) -> None: ...


class Transport(asyncio.Transport):
    """A transport to nowhere."""

    is_aborted = False

    def write(self, data: object) -> None: ...

    def abort(self) -> None:
        self.is_aborted = True


@pytest.mark.parametrize("cut", [5, 20, RESPONSE.index(b"\r\n\r\n") + 2, len(RESPONSE) - 1])
def test_a_response_in_parts_ends_with_the_last_part(cut: int) -> None:
    result = run_with((RESPONSE[:cut], RESPONSE[cut:]))
    assert result.outcomes.status.tolist() == [RequestStatus.ANSWERED] * 2
    assert result.outcomes.finished_s[0] >= PAUSE_S
    assert result.outcomes.variant.tolist() == [1, 1]


def test_only_the_json_part_of_a_binary_response_is_parsed() -> None:
    document = RESPONSE.partition(b"\r\n\r\n")[2]
    whole = ok(document + b"\x00\xff{").replace(
        b"content-length", b"Inference-Header-Content-Length: %d\r\nContent-Length" % len(document)
    )
    result = run_with(whole)
    assert result.outcomes.status.tolist() == [RequestStatus.ANSWERED] * 2
    assert result.outcomes.variant.tolist() == [1, 1]


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", id="no Content-Length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-length: ten\r\n\r\n", id="invalid Content-Length"
        ),
        pytest.param(b"nonsense\r\ncontent-length: 0\r\n\r\n", id="no status"),
        pytest.param(None, id="closed connection"),
        pytest.param(ok(b"<html>"), id="body is not JSON"),
        pytest.param(ok(b'{"model_version": "int8"}'), id="no parameters"),
        pytest.param(ok(b'{"error": "it broke"}', 500), id="server error"),
        pytest.param(ok(b'{"error": "shape"}', 400), id="client error"),
        pytest.param(RESPONSE + RESPONSE, id="two responses"),
    ],
)
def test_an_invalid_response_fails_its_request_only(response: bytes | None) -> None:
    result = run_with(response, requests=3)
    assert result.outcomes.status.tolist() == [RequestStatus.FAILED] * 3
    assert result.first_failure


def test_a_response_without_a_request_closes_the_connection() -> None:
    owner, transport = Owner(), Transport()
    connection = ClientConnection(owner)
    connection.connection_made(transport)
    connection.send(0, b"request")
    connection.data_received(RESPONSE)
    assert (owner.answered, transport.is_aborted) == ([0], False)
    connection.data_received(RESPONSE)
    assert (owner.answered, transport.is_aborted) == ([0], True)

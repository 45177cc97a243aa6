from __future__ import annotations

import threading
import time

import pytest

from loadtests.client.http import LoadResult, build_post_request, run_closed_loop
from loadtests.peers.process import free_port
from tests.loadtests.longer import repeat_longer
from tests.loadtests.server import PAUSE_S, ok, tiny_server
from tests.waiting import GIVE_UP_S

REQUEST = build_post_request("/x", b"body", {"x-slo-latency-ms": "5"})


def test_a_post_request_has_its_headers_and_body() -> None:
    head, _, body = REQUEST.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /x HTTP/1.1",
        b"Host: localhost",
        b"Content-Length: 4",
        b"x-slo-latency-ms: 5",
    ]
    assert body == b"body"


def test_each_client_has_a_connection_and_all_responses_are_counted() -> None:
    counts: list[int] = []

    def respond(number: int, head: bytes) -> bytes:
        counts.append(number)
        return ok()

    def run(seconds: float) -> LoadResult:
        counts.clear()
        with tiny_server(respond) as port:
            result = run_closed_loop(port, REQUEST, clients=3, seconds=seconds)
        assert result.elapsed_s >= seconds
        return result

    result = repeat_longer(run, lambda result: len(result.latencies_s) > 3)
    assert counts.count(0) == 3
    assert len(result.latencies_s) == len(counts) > 3
    assert result.failures == 0
    assert result.requests_per_s == pytest.approx(len(counts) / result.elapsed_s)


def test_latency_ends_with_the_last_part_of_the_response() -> None:
    with tiny_server(lambda number, head: (ok(b"slow")[:-2], b"ow")) as port:
        result = run_closed_loop(port, REQUEST, clients=1, seconds=0.1)
    assert result.quantile_ms(0.0) >= PAUSE_S * 1e3
    assert result.failures == 0


def test_other_statuses_are_failures_and_the_first_response_is_kept() -> None:
    with tiny_server(lambda number, head: ok(b"no", 429) if number == 1 else ok()) as port:
        result = repeat_longer(
            lambda seconds: run_closed_loop(port, REQUEST, clients=1, seconds=seconds),
            lambda result: result.failures > 0,
        )
    assert result.failures == 1
    assert result.first_failure.endswith(b"no")
    assert len(result.latencies_s) >= 1


def test_a_port_without_a_server_raises_connection_error() -> None:
    with pytest.raises(ConnectionError):
        run_closed_loop(free_port(), REQUEST, clients=2, seconds=5)


def test_a_connection_closed_by_the_server_ends_the_run_with_an_error() -> None:
    start = time.monotonic()
    with (
        tiny_server(lambda number, head: ok() if number < 20 else None) as port,
        pytest.raises(ConnectionError, match="closed the connection"),
    ):
        run_closed_loop(port, REQUEST, clients=4, seconds=GIVE_UP_S)
    assert time.monotonic() - start < GIVE_UP_S


def test_a_response_without_content_length_is_an_error() -> None:
    with (
        tiny_server(lambda number, head: b"HTTP/1.1 200 OK\r\n\r\n") as port,
        pytest.raises(ConnectionError, match="without Content-Length"),
    ):
        run_closed_loop(port, REQUEST, clients=1, seconds=30)


def test_a_missing_response_ends_the_run_after_the_grace_period() -> None:
    silence = threading.Event()

    def respond(number: int, head: bytes) -> bytes:
        if number == 0:
            silence.wait(30)
        return ok()

    with tiny_server(respond) as port:
        with pytest.raises(TimeoutError):
            run_closed_loop(port, REQUEST, clients=2, seconds=0.1, grace_s=0.3)
        silence.set()

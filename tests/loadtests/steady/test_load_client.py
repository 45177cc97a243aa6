from __future__ import annotations

import threading

import numpy as np
import pytest

from loadtests.replay.request_log import DISCONNECTED, NO_RESPONSE
from loadtests.steady import load_client
from loadtests.steady.load import UNSENT
from loadtests.steady.load_client import run_load
from tests.loadtests.server import PAUSE_S, free_port, ok, tiny_server
from tests.loadtests.steady.loads import load

REFUSED = b"HTTP/1.1 429 X\r\nRetry-After: 30\r\ncontent-length: 2\r\n\r\nno"


class Counter:
    """Responds and counts requests by their number on the connection."""

    def __init__(self, response: bytes = ok()) -> None:
        self.numbers: list[int] = []
        self._response = response
        self._lock = threading.Lock()

    def __call__(self, number: int, head: bytes) -> bytes:
        with self._lock:
            self.numbers.append(number)
        return self._response


def test_each_client_of_the_closed_loop_keeps_a_connection() -> None:
    respond = Counter()
    with tiny_server(respond) as port:
        record = run_load(load(port, clients=3))
    assert respond.numbers.count(0) == 3
    assert len(record.due_s) == len(respond.numbers) > 3
    assert set(record.http_status.tolist()) == {200}
    assert (record.latency_s > 0).all()
    assert 0 <= record.due_s.min() - record.started_s < 0.2
    assert record.cpu_share > 0
    assert len(record.delays_s) > 0


def test_connections_can_be_new_for_each_request() -> None:
    respond = Counter()
    with tiny_server(respond) as port:
        record = run_load(load(port, clients=2, keeps_connections=False))
    assert set(respond.numbers) == {0}
    assert len(record.due_s) == len(respond.numbers) > 2
    assert set(record.http_status.tolist()) == {200}


def test_latency_ends_with_the_last_byte() -> None:
    with tiny_server(lambda number, head: (ok(b"slow")[:-2], b"ow")) as port:
        record = run_load(load(port, clients=1))
    assert record.latency_s.min() >= PAUSE_S


def test_a_refused_client_sends_again_at_once() -> None:
    respond = Counter(REFUSED)
    with tiny_server(respond) as port:
        record = run_load(load(port, clients=1))
    assert set(record.http_status.tolist()) == {429}
    assert len(respond.numbers) > 1


@pytest.mark.parametrize("keeps_connections", [True, False])
def test_a_client_can_obey_retry_after(keeps_connections: bool) -> None:
    respond = Counter(REFUSED)
    with tiny_server(respond) as port:
        run_load(load(port, clients=2, obeys_retry_after=True, keeps_connections=keeps_connections))
    assert respond.numbers == [0, 0]


def test_a_lost_connection_is_counted_and_replaced() -> None:
    with tiny_server(lambda number, head: ok() if number < 3 else None) as port:
        record = run_load(load(port, clients=1))
    statuses = record.http_status.tolist()
    assert statuses[:8] == [200, 200, 200, DISCONNECTED] * 2
    assert not np.isnan(record.ended_s).any()


def test_a_server_that_is_gone_is_an_error_for_kept_connections() -> None:
    with pytest.raises(OSError, match="refused"):
        run_load(load(free_port(), clients=1))


def test_connections_that_cannot_be_opened_are_counted() -> None:
    record = run_load(load(free_port(), clients=1, keeps_connections=False))
    assert set(record.http_status.tolist()) == {DISCONNECTED}
    assert len(record.due_s) > 1, "the client tries again"


def test_requests_of_the_open_loop_are_due_at_their_arrival_times() -> None:
    arrivals_s = np.linspace(0.0, 0.15, 40)
    with tiny_server(Counter()) as port:
        record = run_load(load(port, arrivals_s=arrivals_s, connections=4))
    np.testing.assert_allclose(np.sort(record.due_s) - record.started_s, arrivals_s, atol=1e-9)
    assert not np.isnan(record.ended_s[record.http_status == 200]).any()


def test_a_request_without_a_free_connection_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_client, "DRAIN_S", 0.0)
    silence = threading.Event()

    def respond(number: int, head: bytes) -> bytes:
        silence.wait(30)
        return ok()

    with tiny_server(respond) as port:
        record = run_load(load(port, arrivals_s=np.linspace(0.0, 0.1, 10), connections=3))
        silence.set()
    assert record.http_status.tolist() == [NO_RESPONSE] * 3 + [UNSENT] * 7
    assert np.isnan(record.ended_s).tolist() == [True] * 3 + [False] * 7


def test_new_connections_of_the_open_loop_are_limited_too() -> None:
    respond = Counter()
    with tiny_server(respond) as port:
        record = run_load(
            load(port, arrivals_s=np.zeros(20), connections=2, keeps_connections=False)
        )
    assert set(respond.numbers) == {0}
    assert (record.http_status == 200).sum() == len(respond.numbers) >= 2
    assert (record.http_status == UNSENT).sum() == 20 - len(respond.numbers)


def test_both_loops_can_run_at_once() -> None:
    with tiny_server(Counter()) as port:
        record = run_load(load(port, clients=1, arrivals_s=np.full(5, 0.05)))
    due_s = record.due_s - record.started_s
    assert np.isclose(due_s, 0.05, atol=1e-9).sum() == 5
    assert len(due_s) > 6


def test_the_json_of_a_sample_of_responses_is_kept() -> None:
    with tiny_server(Counter(ok(b"{}"))) as port:
        record = run_load(load(port, arrivals_s=np.linspace(0, 0.1, 10), sample_every=3))
    assert list(record.contents.values()) == [b"{}"] * 3
    assert set(record.contents) <= set(range(10))

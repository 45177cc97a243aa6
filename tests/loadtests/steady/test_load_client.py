from __future__ import annotations

import threading
from select import select
from typing import Any

import numpy as np
import pytest

from loadtests.peers.process import free_port
from loadtests.replay.request_log import DISCONNECTED, NO_RESPONSE
from loadtests.steady import load_client
from loadtests.steady.load import UNSENT, LoadRecord
from loadtests.steady.load_client import run_load
from loadtests.steady.loops import ClosedLoop
from tests.loadtests.longer import repeat_longer
from tests.loadtests.server import PAUSE_S, Responder, ok, tiny_server
from tests.loadtests.steady.loads import load
from tests.waiting import GIVE_UP_S


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run wait for its last responses, however busy the machine is."""
    monkeypatch.setattr(load_client, "DRAIN_S", GIVE_UP_S)


def run(respond: Responder, more_than: int = 0, **fields: Any) -> tuple[LoadRecord, list[int]]:
    """Apply a load to a server until there are more than this number of requests.

    Returns the record, and the number of each request on its connection, as the server saw it.
    """
    numbers: list[int] = []

    def count(number: int, head: bytes) -> bytes | tuple[bytes, bytes] | None:
        numbers.append(number)
        return respond(number, head)

    def apply(seconds: float) -> LoadRecord:
        numbers.clear()
        with tiny_server(count) as port:
            return run_load(load(port, seconds, **fields))

    return repeat_longer(apply, lambda record: len(record.due_s) > more_than), numbers


def answer(number: int, head: bytes) -> bytes:
    return ok()


def refuse(number: int, head: bytes) -> bytes:
    return b"HTTP/1.1 429 X\r\nRetry-After: 30\r\ncontent-length: 2\r\n\r\nno"


def test_each_client_of_the_closed_loop_keeps_a_connection() -> None:
    record, numbers = run(answer, more_than=3, clients=3)
    assert numbers.count(0) == 3
    assert len(record.due_s) == len(numbers) > 3
    assert set(record.http_status.tolist()) == {200}
    assert (record.latency_s > 0).all()
    assert record.started_s <= record.due_s.min()
    assert record.cpu_share > 0
    assert len(record.delays_s) > 0


def test_connections_can_be_new_for_each_request() -> None:
    record, numbers = run(answer, more_than=2, clients=2, keeps_connections=False)
    assert set(numbers) == {0}
    assert len(record.due_s) == len(numbers) > 2
    assert set(record.http_status.tolist()) == {200}


def test_latency_ends_with_the_last_byte() -> None:
    record, _ = run(lambda number, head: (ok(b"slow")[:-2], b"ow"), clients=1)
    assert record.latency_s.min() >= PAUSE_S


def test_a_response_that_arrives_during_a_pause_of_the_client_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_paused = threading.Event()
    stop = ClosedLoop.stop

    def pause(loop: ClosedLoop) -> None:
        """Stop, and return when the time for the last responses is over and one has arrived."""
        stop(loop)
        is_paused.set()
        (connection,) = loop._connections.open
        select([connection._transport.get_extra_info("socket")], [], [], GIVE_UP_S)

    def respond(number: int, head: bytes) -> bytes:
        is_paused.wait(GIVE_UP_S)
        return ok()

    monkeypatch.setattr(load_client, "DRAIN_S", 0.0)
    monkeypatch.setattr(ClosedLoop, "stop", pause)
    record, _ = run(respond, clients=1)
    assert record.http_status.tolist() == [200]


def test_a_refused_client_sends_again_at_once() -> None:
    record, numbers = run(refuse, more_than=1, clients=1)
    assert set(record.http_status.tolist()) == {429}
    assert len(numbers) > 1


@pytest.mark.parametrize("keeps_connections", [True, False])
def test_a_client_can_obey_retry_after(keeps_connections: bool) -> None:
    _, numbers = run(refuse, clients=2, obeys_retry_after=True, keeps_connections=keeps_connections)
    assert numbers == [0, 0]


def test_a_lost_connection_is_counted_and_replaced() -> None:
    record, _ = run(lambda number, head: ok() if number < 3 else None, more_than=7, clients=1)
    statuses = record.http_status.tolist()
    assert statuses[:8] == [200, 200, 200, DISCONNECTED] * 2
    assert not np.isnan(record.ended_s).any()


def test_a_server_that_is_gone_is_an_error_for_kept_connections() -> None:
    with pytest.raises(OSError, match="refused"):
        run_load(load(free_port(), clients=1))


def test_connections_that_cannot_be_opened_are_counted() -> None:
    port = free_port()
    record = repeat_longer(
        lambda seconds: run_load(load(port, seconds, clients=1, keeps_connections=False)),
        lambda record: len(record.due_s) > 1,
    )
    assert set(record.http_status.tolist()) == {DISCONNECTED}
    assert len(record.due_s) > 1, "the client tries again"


def test_requests_of_the_open_loop_are_due_at_their_arrival_times() -> None:
    arrivals_s = np.linspace(0.0, 0.15, 40)
    record, _ = run(answer, arrivals_s=arrivals_s, connections=4)
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
    record, numbers = run(answer, arrivals_s=np.zeros(20), connections=2, keeps_connections=False)
    assert set(numbers) == {0}
    assert (record.http_status == 200).sum() == len(numbers) >= 2
    assert (record.http_status == UNSENT).sum() == 20 - len(numbers) >= 14, "16 come in a row"


def test_both_loops_can_run_at_once() -> None:
    record, _ = run(answer, more_than=6, clients=1, arrivals_s=np.full(5, 0.05))
    due_s = record.due_s - record.started_s
    assert np.isclose(due_s, 0.05, rtol=0, atol=1e-9).sum() == 5
    assert len(due_s) > 6


def test_the_json_of_a_sample_of_responses_is_kept() -> None:
    arrivals_s = np.linspace(0, 0.1, 10)
    record, _ = run(lambda number, head: ok(b"{}"), arrivals_s=arrivals_s, sample_every=3)
    assert list(record.contents.values()) == [b"{}"] * 3
    assert set(record.contents) <= set(range(10))

"""What may come over the wire in place of a whole answer in one piece."""

from __future__ import annotations

import pytest

from loadtests.replay.replay import ReplayResult, run_replay
from loadtests.trials.outcomes import RequestStatus
from tests.loadtests.replay.test_replay import ANSWER, answer
from tests.loadtests.replay.workloads import workload
from tests.loadtests.server import PAUSE_S, Responder, ok, tiny_server


def asked(reply: bytes | tuple[bytes, bytes] | None, requests: int = 2) -> ReplayResult:
    """Ask a service that answers all requests to infer with this, one connection for all."""

    def answers(number: int, head: bytes) -> bytes | tuple[bytes, bytes] | None:
        return answer(number, head) if head.startswith(b"GET") else reply

    own: Responder = answers
    with tiny_server(own) as port:
        url = f"http://127.0.0.1:{port}"
        return run_replay(url, workload([0.0] * requests), connections=1, grace_s=60)


@pytest.mark.parametrize("cut", [5, 20, ANSWER.index(b"\r\n\r\n") + 2, len(ANSWER) - 1])
def test_an_answer_in_pieces_is_one_answer_and_ends_with_the_last(cut: int) -> None:
    done = asked((ANSWER[:cut], ANSWER[cut:]))
    assert done.outcomes.status.tolist() == [RequestStatus.ANSWERED] * 2
    assert done.outcomes.finished_s[0] >= PAUSE_S
    assert done.outcomes.variant.tolist() == [1, 1]


def test_only_the_json_part_of_a_binary_answer_is_read() -> None:
    document = ANSWER.partition(b"\r\n\r\n")[2]
    whole = ok(document + b"\x00\xff{").replace(
        b"content-length", b"Inference-Header-Content-Length: %d\r\nContent-Length" % len(document)
    )
    done = asked(whole)
    assert done.outcomes.status.tolist() == [RequestStatus.ANSWERED] * 2
    assert done.outcomes.variant.tolist() == [1, 1]


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", id="no length"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: ten\r\n\r\n", id="a wrong length"),
        pytest.param(b"nonsense\r\ncontent-length: 0\r\n\r\n", id="no status"),
        pytest.param(None, id="nothing, and the connection closes"),
        pytest.param(ok(b"<html>"), id="a body that is no answer"),
        pytest.param(ok(b'{"model_version": "int8"}'), id="no parameters"),
        pytest.param(ok(b'{"error": "it broke"}', 500), id="an error of the service"),
        pytest.param(ok(b'{"error": "shape"}', 400), id="an error of ours"),
    ],
)
def test_what_is_no_answer_has_failed_and_the_run_goes_on(reply: bytes | None) -> None:
    done = asked(reply, requests=3)
    assert done.outcomes.status.tolist() == [RequestStatus.FAILED] * 3
    assert done.first_failure


def test_an_answer_to_nothing_ends_the_connection_and_is_no_ones() -> None:
    done = asked((ANSWER, ANSWER), requests=1)
    assert done.outcomes.status.tolist() == [RequestStatus.ANSWERED]
    done = asked(ANSWER + ANSWER, requests=3)
    assert done.outcomes.status.tolist() == [RequestStatus.ANSWERED] * 3

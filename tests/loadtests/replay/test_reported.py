from __future__ import annotations

import pytest

from loadtests.replay.ledger import Ledger
from loadtests.replay.reported import parse
from loadtests.trials.outcomes import Status

EXPLAINED = (
    b'{"model_version": "int8", "parameters": {"predicted_latency_ms": 5, "latency_ms": 4.5,'
    b' "queue_ms": 3, "compute_ms": 1, "batch_size": 7}}'
)


@pytest.mark.parametrize(
    ("http_status", "status"),
    [
        (200, Status.ANSWERED),
        (429, Status.SHED),
        (504, Status.EXPIRED),
        (422, Status.UNATTAINABLE),
        (400, Status.FAILED),
        (404, Status.FAILED),
        (500, Status.FAILED),
        (503, Status.FAILED),
        (302, Status.FAILED),
    ],
)
def test_each_http_status_has_one_meaning(http_status: int, status: Status) -> None:
    ledger = Ledger(2)
    ledger.answered(1, 2.0, http_status, EXPLAINED)
    assert parse(ledger, []).status.tolist() == [Status.LOST, status]


def test_what_an_answer_says_is_noted_in_seconds() -> None:
    ledger = Ledger(1)
    ledger.answered(0, 2.0, 200, EXPLAINED)
    answers = parse(ledger, ["dense"])
    assert answers.variants == ("dense", "int8"), "one that came up since is added"
    assert answers.variant.tolist() == [1]
    assert answers.batch_size.tolist() == [7]
    said = answers.said
    assert (said.predicted_s[0], said.latency_s[0]) == (0.005, 0.0045)
    assert (said.queue_s[0], said.compute_s[0]) == (0.003, 0.001)


def test_a_disconnected_request_has_failed_and_one_without_an_end_is_lost() -> None:
    ledger = Ledger(2)
    ledger.disconnected(0)
    answers = parse(ledger, ["dense"])
    assert answers.status.tolist() == [Status.FAILED, Status.LOST]
    assert "connection" in answers.first_failure
    assert not ledger.all_finished.is_set()
    ledger.answered(1, 1.0, 429, b"")
    assert ledger.all_finished.is_set()


def test_the_first_failure_is_told_in_the_words_of_the_service() -> None:
    ledger = Ledger(3)
    ledger.answered(0, 1.0, 429, b"later")
    ledger.answered(1, 1.0, 500, b"it broke")
    ledger.answered(2, 1.0, 500, b"again")
    assert parse(ledger, []).first_failure == "it broke"

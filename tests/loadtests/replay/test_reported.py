from __future__ import annotations

import pytest

from loadtests.replay.reported import parse_responses
from loadtests.replay.request_log import RequestLog
from loadtests.trials.outcomes import RequestStatus

RESPONSE = (
    b'{"model_version": "int8", "parameters": {"predicted_latency_ms": 5, "latency_ms": 4.5,'
    b' "queue_ms": 3, "compute_ms": 1, "batch_size": 7}}'
)


@pytest.mark.parametrize(
    ("http_status", "status"),
    [
        (200, RequestStatus.ANSWERED),
        (429, RequestStatus.SHED),
        (504, RequestStatus.EXPIRED),
        (422, RequestStatus.UNATTAINABLE),
        (400, RequestStatus.FAILED),
        (404, RequestStatus.FAILED),
        (500, RequestStatus.FAILED),
        (503, RequestStatus.FAILED),
        (302, RequestStatus.FAILED),
    ],
)
def test_each_http_status_has_one_meaning(http_status: int, status: RequestStatus) -> None:
    log = RequestLog(2)
    log.record_response(1, 2.0, http_status, RESPONSE)
    assert parse_responses(log, []).status.tolist() == [RequestStatus.LOST, status]


def test_reported_times_are_converted_to_seconds() -> None:
    log = RequestLog(1)
    log.record_response(0, 2.0, 200, RESPONSE)
    responses = parse_responses(log, ["dense"])
    assert responses.variants == ("dense", "int8"), "an unknown variant is appended"
    assert responses.variant.tolist() == [1]
    assert responses.batch_size.tolist() == [7]
    reported = responses.reported
    assert (reported.predicted_s[0], reported.latency_s[0]) == (0.005, 0.0045)
    assert (reported.queue_s[0], reported.compute_s[0]) == (0.003, 0.001)


def test_a_disconnected_request_failed_and_an_unfinished_one_is_lost() -> None:
    log = RequestLog(2)
    log.record_disconnect(0)
    responses = parse_responses(log, ["dense"])
    assert responses.status.tolist() == [RequestStatus.FAILED, RequestStatus.LOST]
    assert "connection" in responses.first_failure
    assert not log.all_finished.is_set()
    log.record_response(1, 1.0, 429, b"")
    assert log.all_finished.is_set()


def test_the_first_failure_is_the_response_of_the_service() -> None:
    log = RequestLog(3)
    log.record_response(0, 1.0, 429, b"later")
    log.record_response(1, 1.0, 500, b"it broke")
    log.record_response(2, 1.0, 500, b"again")
    assert parse_responses(log, []).first_failure == "it broke"

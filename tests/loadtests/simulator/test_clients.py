"""When simulated clients send: closed loops, and retries in an open loop."""

from __future__ import annotations

import numpy as np
import pytest

from loadtests.simulator.clients import Clients, ClosedLoop, Retries, Sending, closed_loop
from loadtests.simulator.gateway_costs import GatewayCosts
from loadtests.trials.outcomes import RequestStatus
from loadtests.workload.workload import SloClass
from serving.routing.slo import Slo

CLASSES = (SloClass("a", Slo(), share=3.0), SloClass("b", Slo(), share=1.0))


def send(clients: Clients) -> Sending:
    """Send the next request, for which a connection must be free."""
    sending = clients.send()
    assert sending is not None
    return sending


def test_requests_are_sent_in_order_of_time() -> None:
    clients = Clients([Sending(0.0, 0, 0, 0), Sending(2.0, 1, 1, 0)], Retries(2, 1.0))
    first = send(clients)
    clients.receive(first, RequestStatus.SHED, 0.5)
    assert clients.next_at == 1.5
    assert clients.is_next(0, 1.5)
    assert not clients.is_next(1, 1.5)
    assert [send(clients).class_, send(clients).class_] == [0, 1]
    assert clients.next_at == np.inf


def test_a_request_that_finds_no_free_connection_is_not_sent() -> None:
    sendings = [Sending(float(number), number, 0, 0) for number in range(3)]
    clients = Clients(sendings, Retries(), connections=1)
    first = send(clients)
    assert clients.send() is None
    clients.receive(first, RequestStatus.ANSWERED, 1.5)
    assert send(clients) == sendings[2]


def test_a_refused_request_is_repeated_as_often_as_allowed() -> None:
    retries = Retries(max_attempts=3, delay_s=1.0)
    sending: Sending | None = Sending(0.0, 0, 0, 0)
    times = []
    while sending is not None:
        times.append(sending.at_s)
        sending = retries.next_sending(sending, RequestStatus.SHED, sending.at_s + 0.25)
    assert times == [0.0, 1.25, 2.5]


@pytest.mark.parametrize("status", [RequestStatus.ANSWERED, RequestStatus.EXPIRED])
def test_only_refused_requests_are_repeated_in_an_open_loop(status: RequestStatus) -> None:
    assert Retries(max_attempts=3).next_sending(Sending(0.0, 0, 0, 0), status, 1.0) is None


def test_a_closed_loop_client_waits_after_answers_and_errors() -> None:
    loop = ClosedLoop(1, CLASSES, seconds=10.0, think_s=2.0, retry_s=3.0)
    sent = Sending(0.0, 0, 1, 2)
    answered = loop.next_sending(sent, RequestStatus.ANSWERED, 1.0)
    refused = loop.next_sending(sent, RequestStatus.SHED, 1.0)
    assert answered == sent._replace(at_s=3.0)
    assert refused == sent._replace(at_s=4.0)
    assert loop.next_sending(sent, RequestStatus.ANSWERED, 8.5) is None


def test_closed_loop_clients_differ_in_class_and_gateway() -> None:
    clients = closed_loop(ClosedLoop(400, CLASSES, seconds=1.0), 2, np.random.default_rng(0))
    sent = [send(clients) for _ in range(400)]
    assert all(each.at_s == 0.0 for each in sent)
    assert np.mean([each.class_ for each in sent]) == pytest.approx(0.25, abs=0.05)
    assert np.mean([each.gateway for each in sent]) == pytest.approx(0.5, abs=0.1)


def test_clients_that_would_never_let_time_pass_are_rejected() -> None:
    loop = ClosedLoop(1, CLASSES, seconds=1.0)
    with pytest.raises(ValueError, match="infinitely often"):
        loop.check(GatewayCosts(per_answer_s=1e-3))
    loop.check(GatewayCosts(per_refusal_s=1e-3))
    ClosedLoop(1, CLASSES, seconds=1.0, retry_s=0.1).check(GatewayCosts())

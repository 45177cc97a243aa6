"""Replays against the HTTP listener and the data plane of the gateway."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from loadtests.replay.real_time import real_time_scheduling
from loadtests.replay.replay import ReplayResult, replay, run_replay
from loadtests.trials.outcomes import RequestStatus
from loadtests.workload.workload import SloClass, Workload
from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult
from serving.routing.slo import Slo
from tests.loadtests.gateway_stub import respond
from tests.loadtests.longer import DURATIONS_S
from tests.loadtests.replay.workloads import StallingApplication, workload
from tests.loadtests.server import tiny_server
from tests.serving.builders import in_process, multiply
from tests.serving.protocol.http.asgi_gateway import AsgiGateway
from tests.serving.protocol.http.sockets import LOOPBACK, listening


async def run(
    application: object, load: Workload, connections: int = 512, grace_s: float = 60.0
) -> ReplayResult:
    """Replay against an application behind the HTTP listener of the gateway."""
    async with listening(application) as listener:
        url = f"http://{LOOPBACK}:{listener.port}"
        return await replay(url, load, connections=connections, grace_s=grace_s)


async def test_every_request_is_answered_once_and_its_parameters_are_returned() -> None:
    ran: list[int] = []

    async def counting(variant: str, requests: Sequence[Arrays]) -> BatchResult[Sequence[Arrays]]:
        ran.extend(len(request["pixels"]) for request in requests)
        return await multiply(variant, requests)

    classes = (SloClass("one", Slo()), SloClass("three", Slo(variant="int8"), size=3))
    class_of = [number % 2 for number in range(60)]
    load = workload(np.linspace(0, 0.1, 60), classes, class_of)
    result = await run(in_process(counting), load)
    outcomes, reported = result.outcomes, result.reported
    assert result.first_failure == ""
    assert (outcomes.status == RequestStatus.ANSWERED).all()
    assert outcomes.variants == ("dense", "int8")
    assert outcomes.batches is None
    assert sorted(ran) == sorted(load.sizes)
    assert (outcomes.variant[load.class_of == 1] == 1).all()
    assert (outcomes.batch_size >= load.sizes).all()
    assert (reported.predicted_s > 0).all()
    np.testing.assert_allclose(
        reported.compute_s, 1e-4, err_msg="the compute time that `multiply` reports"
    )
    assert (reported.queue_s < reported.latency_s).all()
    assert (reported.queue_s < outcomes.finished_s - result.sent_s).all()


async def test_a_stall_shows_in_all_requests_that_arrive_during_it() -> None:
    """The service answers once all requests have arrived: a closed loop would never get there."""
    load = workload(np.linspace(0.01, 0.2, 50))
    result = await run(StallingApplication(AsgiGateway(in_process()), count=50), load)
    assert (result.outcomes.status == RequestStatus.ANSWERED).all()
    took_s = result.outcomes.finished_s - load.arrivals_s
    assert (took_s >= load.arrivals_s[-1] - load.arrivals_s).all()


async def test_the_wait_for_a_connection_is_part_of_the_latency() -> None:
    load = workload([0.01] * 6)
    service = StallingApplication(AsgiGateway(in_process()), count=2)
    result = await run(service, load, connections=2)
    assert (result.outcomes.status == RequestStatus.ANSWERED).all()
    assert service.max_in_flight == result.client.connections == 2
    assert result.client.waited == 4
    waited_s = result.sent_s - load.arrivals_s
    assert (waited_s[2:] >= result.outcomes.finished_s[:2].min() - load.arrivals_s[2:]).all()
    assert (np.diff(result.sent_s) >= 0).all(), "first come, first served"
    assert 0 < result.client.waited_max_s <= waited_s.max()


async def test_connections_grow_with_the_requests_in_flight() -> None:
    load = workload([0.01] * 50)
    service = StallingApplication(AsgiGateway(in_process()), count=50)
    result = await run(service, load)
    assert (result.outcomes.status == RequestStatus.ANSWERED).all()
    assert service.max_in_flight == result.client.connections == 50


async def test_no_request_is_sent_early_and_delays_are_reported() -> None:
    load = workload(np.sort(np.random.default_rng(0).random(30) * 0.2))
    service = StallingApplication(AsgiGateway(in_process()))
    result = await run(service, load)
    late_s = result.sent_s - load.arrivals_s
    assert (late_s > -1e-9).all()
    assert len(service.arrivals_s) == 30
    assert result.client.waited == 0, "there are as many connections from the start"
    assert result.client.delay_p50_s == pytest.approx(np.median(late_s), abs=1e-9)
    assert result.client.delay_p99_s == pytest.approx(np.quantile(late_s, 0.99), abs=1e-9)
    assert result.client.delay_max_s == pytest.approx(late_s.max(), abs=1e-9)
    assert result.client.cpu_s > 0


async def test_unattainable_and_shed_requests_are_distinguished() -> None:
    gate = asyncio.Event()

    async def held(variant: str, requests: Sequence[Arrays]) -> BatchResult[Sequence[Arrays]]:
        await gate.wait()
        return await multiply(variant, requests)

    class GateOpener:
        """Opens the gate after five refusals: one request runs and one is queued."""

        def __init__(self) -> None:
            self._gateway = AsgiGateway(in_process(held, slots=1, max_queue=1))
            self._refused = 0

        async def __call__(self, scope: object, receive: object, send: object) -> None:
            await self._gateway(scope, receive, send)  # type: ignore[arg-type]
            self._refused += not gate.is_set() and scope["method"] == "POST"  # type: ignore[index]
            if self._refused == 5:
                gate.set()

    classes = (SloClass("pinned", Slo(variant="int8")), SloClass("no", Slo(min_accuracy=0.99)))
    load = workload([0.01] * 7, classes, [0, 0, 0, 0, 0, 0, 1])
    result = await run(GateOpener(), load)
    status = result.outcomes.status
    assert status[6] == RequestStatus.UNATTAINABLE
    assert set(status[:6]) == {RequestStatus.ANSWERED, RequestStatus.SHED}
    assert np.count_nonzero(status == RequestStatus.SHED) in (4, 5), (
        "5 if none ran when the last one arrived"
    )
    assert np.isfinite(result.outcomes.finished_s).all()
    refused = status != RequestStatus.ANSWERED
    assert (result.outcomes.variant[refused] == -1).all()
    assert (result.outcomes.batch_size[refused] == 0).all()
    assert not result.outcomes.on_time[refused].any()


async def test_requests_without_a_response_are_lost_after_the_grace_period() -> None:
    load = workload(np.linspace(0, 0.05, 20))
    for grace_s in DURATIONS_S:
        gateway = AsgiGateway(in_process())
        service = StallingApplication(gateway, is_answered=lambda number: number % 4 != 3)
        result = await run(service, load, grace_s=grace_s)
        lost = result.outcomes.status == RequestStatus.LOST
        if lost.sum() == 5:
            break
    assert np.bincount(result.outcomes.status, minlength=6).tolist() == [5, 15, 0, 0, 0, 0]
    assert np.isnan(result.outcomes.finished_s[lost]).all()
    assert np.isfinite(result.sent_s).all()
    assert result.first_failure == ""


async def test_requests_without_a_connection_are_lost_and_not_sent() -> None:
    service = StallingApplication(AsgiGateway(in_process()), is_answered=lambda number: False)
    result = await run(service, workload([0.0] * 5), connections=2, grace_s=0.05)
    assert (result.outcomes.status == RequestStatus.LOST).all()
    assert np.isnan(result.sent_s).sum() == result.client.waited == 3
    assert result.client.waited_max_s == 0.0


async def test_idle_connections_closed_by_the_server_fail_no_request() -> None:
    for gap_s in DURATIONS_S:
        load = workload([0.0] * 3 + [gap_s] * 3)
        async with listening(in_process(), keep_alive_s=gap_s / 4) as listener:
            result = await replay(f"http://{LOOPBACK}:{listener.port}", load)
        if result.client.waited == 3:
            break
    assert result.client.waited == 3, "all connections were closed"
    assert (result.outcomes.status == RequestStatus.ANSWERED).all()


def test_closed_connections_fail_only_the_requests_on_them() -> None:
    closed: list[bytes] = []

    def closing(number: int, head: bytes) -> bytes | None:
        if head.startswith(b"POST") and number == 5:
            closed.append(head)
            return None
        return respond(number, head)

    with tiny_server(closing) as port:
        load = workload(np.linspace(0, 0.2, 100))
        result = run_replay(f"http://{LOOPBACK}:{port}", load, connections=2, grace_s=60)
    failed = result.outcomes.status == RequestStatus.FAILED
    assert len(closed) == failed.sum() > 5
    assert (result.outcomes.status[~failed] == RequestStatus.ANSWERED).all()
    assert np.isnan(result.outcomes.finished_s[failed]).all()
    assert "connection was lost" in result.first_failure


async def test_all_requests_after_the_end_of_the_service_fail() -> None:
    server: asyncio.Server
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        number = 0
        while head := await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b"":
            length = head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length or 0))
            if head.startswith(b"POST"):
                number += 1
            if number == 3:
                server.close()
                for each in writers:
                    each.transport.abort()
                return
            writer.write(respond(number, head))

    def ignore(loop: asyncio.AbstractEventLoop, context: object) -> None:
        """Ignore interrupted readers, which this test causes."""

    asyncio.get_running_loop().set_exception_handler(ignore)
    server = await asyncio.start_server(serve, LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    load = workload(np.linspace(0, 0.1, 30))
    result = await replay(f"http://{LOOPBACK}:{port}", load, connections=1, grace_s=60)
    assert (result.outcomes.status[:2] == RequestStatus.ANSWERED).all()
    assert (result.outcomes.status[2:] == RequestStatus.FAILED).all()


def test_run_replay_runs_in_a_new_event_loop() -> None:
    bodies: list[bytes] = []
    with tiny_server(lambda number, head: bodies.append(head) or respond(number, head)) as port:  # type: ignore[func-returns-value]
        result = run_replay(f"http://localhost:{port}/", workload([0.0, 0.01]), policy="slack")
    assert result.outcomes.policy == "slack"
    assert result.outcomes.variant.tolist() == [1, 1]
    assert np.isnan(result.reported.predicted_s).all(), "it is not reported"


@pytest.mark.skipif(sys.platform != "linux", reason="real-time priority requires Linux")
def test_a_thread_has_real_time_priority_during_the_context() -> None:
    before = os.sched_getscheduler(0)
    assert before != os.SCHED_FIFO, "an earlier test did not restore it"
    with real_time_scheduling() as is_real_time:
        assert os.sched_getscheduler(0) == (os.SCHED_FIFO if is_real_time else before)
    assert os.sched_getscheduler(0) == before
    with tiny_server(respond) as port:
        result = run_replay(f"http://{LOOPBACK}:{port}", workload([0.0]))
    assert result.client.is_real_time == is_real_time
    assert os.sched_getscheduler(0) == before


@pytest.mark.parametrize(
    ("url", "arrivals_s", "connections", "match"),
    [
        pytest.param("http://127.0.0.1:1", [], 1, "no request", id="an empty workload"),
        pytest.param("http://127.0.0.1:1", [0.0], 0, "at least 1", id="no connection"),
        pytest.param("https://127.0.0.1:1", [0.0], 1, "http://HOST:PORT", id="another scheme"),
        pytest.param("127.0.0.1:1", [0.0], 1, "http://HOST:PORT", id="no scheme"),
        pytest.param("http://127.0.0.1:1", [0.0], 1, "no service", id="no service"),
    ],
)
def test_invalid_arguments_are_rejected_before_a_request_is_sent(
    url: str, arrivals_s: list[float], connections: int, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        run_replay(url, workload(arrivals_s), connections=connections)

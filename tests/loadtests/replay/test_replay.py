"""An open loop against a real listener and a real data plane."""

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
from tests.loadtests.replay.workloads import Stalling, workload
from tests.loadtests.server import free_port, ok, tiny_server
from tests.serving.builders import in_process, multiply
from tests.serving.protocol.http.sockets import LOOPBACK, listening

METADATA = (
    b'{"name": "shirts", "versions": ["dense", "int8"],'
    b' "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 4]}]}'
)
ANSWER = ok(b'{"model_version": "int8", "parameters": {"accuracy": 0.5, "batch_size": 1}}')


async def run(
    application: object, load: Workload, connections: int = 512, grace_s: float = 60.0
) -> ReplayResult:
    """Replay against an application behind the gateway's own listener."""
    async with listening(application) as listener:
        url = f"http://{LOOPBACK}:{listener.port}"
        return await replay(url, load, connections=connections, grace_s=grace_s)


def answer(number: int, head: bytes) -> bytes:
    """Answer as a service would, from a thread."""
    if head.startswith(b"GET /v2/models "):
        return ok(b'{"models": ["shirts"]}')
    return ok(METADATA) if head.startswith(b"GET") else ANSWER


async def test_every_request_is_answered_once_and_what_was_said_of_it_is_told() -> None:
    ran: list[int] = []

    async def counting(variant: str, requests: Sequence[Arrays]) -> BatchResult[Sequence[Arrays]]:
        ran.extend(len(request["pixels"]) for request in requests)
        return await multiply(variant, requests)

    classes = (SloClass("one", Slo()), SloClass("three", Slo(variant="int8"), size=3))
    class_of = [number % 2 for number in range(60)]
    load = workload(np.linspace(0, 0.1, 60), classes, class_of)
    done = await run(in_process(counting).protocol, load)
    outcomes, reported = done.outcomes, done.reported
    assert done.first_failure == ""
    assert (outcomes.status == RequestStatus.ANSWERED).all()
    assert outcomes.variants == ("dense", "int8")
    assert outcomes.batches is None
    assert sorted(ran) == sorted(load.sizes)
    assert (outcomes.variant[load.class_of == 1] == 1).all()
    assert (outcomes.batch_size >= load.sizes).all()
    assert (reported.predicted_s > 0).all()
    np.testing.assert_allclose(reported.compute_s, 1e-4, err_msg="what `multiply` says of itself")
    assert (reported.queue_s < reported.latency_s).all()
    rounding_s = 1e-6
    assert (reported.latency_s <= outcomes.finished_s - done.sent_s + rounding_s).all()


async def test_a_stall_shows_in_all_requests_that_were_due_meanwhile() -> None:
    """The service answers none before it has them all: a closed loop would wait for ever."""
    load = workload(np.linspace(0.01, 0.2, 50))
    done = await run(Stalling(in_process().protocol, count=50), load)
    assert (done.outcomes.status == RequestStatus.ANSWERED).all()
    took_s = done.outcomes.finished_s - load.arrivals_s
    assert (took_s >= load.arrivals_s[-1] - load.arrivals_s).all()


async def test_a_request_without_a_connection_waits_and_that_counts() -> None:
    load = workload([0.01] * 6)
    service = Stalling(in_process().protocol, count=2)
    done = await run(service, load, connections=2)
    assert (done.outcomes.status == RequestStatus.ANSWERED).all()
    assert service.most == done.client.connections == 2
    assert done.client.waited == 4
    waited_s = done.sent_s - load.arrivals_s
    assert (waited_s[2:] >= done.outcomes.finished_s[:2].min() - load.arrivals_s[2:]).all()
    assert (np.diff(done.sent_s) >= 0).all(), "first come, first served"
    assert 0 < done.client.waited_max_s <= waited_s.max()


async def test_connections_grow_with_the_requests_in_flight() -> None:
    load = workload([0.01] * 50)
    service = Stalling(in_process().protocol, count=50)
    done = await run(service, load)
    assert (done.outcomes.status == RequestStatus.ANSWERED).all()
    assert service.most == done.client.connections == 50


async def test_no_request_is_sent_before_its_time_and_lag_is_how_late_they_are() -> None:
    load = workload(np.sort(np.random.default_rng(0).random(200) * 0.2))
    service = Stalling(in_process().protocol)
    done = await run(service, load)
    late_s = done.sent_s - load.arrivals_s
    assert (late_s > -1e-9).all()
    assert len(service.came_s) == 200
    assert done.client.waited == 0
    assert done.client.delay_p50_s == pytest.approx(np.median(late_s), abs=1e-9)
    assert done.client.delay_p99_s == pytest.approx(np.quantile(late_s, 0.99), abs=1e-9)
    assert done.client.delay_max_s == pytest.approx(late_s.max(), abs=1e-9)
    assert done.client.cpu_s > 0


async def test_unattainable_is_told_from_shed() -> None:
    gate = asyncio.Event()

    async def held(variant: str, requests: Sequence[Arrays]) -> BatchResult[Sequence[Arrays]]:
        await gate.wait()
        return await multiply(variant, requests)

    class Opens:
        """Opens the gate once five requests were refused: one runs, and one is queued."""

        def __init__(self) -> None:
            self._protocol = in_process(held, slots=1, max_queue=1).protocol
            self._refused = 0

        async def __call__(self, scope: object, receive: object, send: object) -> None:
            await self._protocol(scope, receive, send)  # type: ignore[arg-type]
            self._refused += not gate.is_set() and scope["method"] == "POST"  # type: ignore[index]
            if self._refused == 5:
                gate.set()

    classes = (SloClass("pinned", Slo(variant="int8")), SloClass("no", Slo(min_accuracy=0.99)))
    load = workload([0.01] * 7, classes, [0, 0, 0, 0, 0, 0, 1])
    done = await run(Opens(), load)
    status = done.outcomes.status
    assert status[6] == RequestStatus.UNATTAINABLE
    assert set(status[:6]) == {RequestStatus.ANSWERED, RequestStatus.SHED}
    assert np.count_nonzero(status == RequestStatus.SHED) in (4, 5), (
        "5 if none ran when the last came"
    )
    assert np.isfinite(done.outcomes.finished_s).all()
    refused = status != RequestStatus.ANSWERED
    assert (done.outcomes.variant[refused] == -1).all()
    assert (done.outcomes.batch_size[refused] == 0).all()
    assert not done.outcomes.on_time[refused].any()


async def test_what_is_never_answered_is_lost_after_the_grace() -> None:
    load = workload(np.linspace(0, 0.05, 20))
    service = Stalling(in_process().protocol, answers=lambda number: number % 4 != 3)
    done = await run(service, load, grace_s=1.0)
    assert np.bincount(done.outcomes.status, minlength=6).tolist() == [5, 15, 0, 0, 0, 0]
    lost = done.outcomes.status == RequestStatus.LOST
    assert np.isnan(done.outcomes.finished_s[lost]).all()
    assert np.isfinite(done.sent_s).all()
    assert done.first_failure == ""


async def test_what_never_got_a_connection_is_lost_and_was_not_sent() -> None:
    service = Stalling(in_process().protocol, answers=lambda number: False)
    done = await run(service, workload([0.0] * 5), connections=2, grace_s=0.05)
    assert (done.outcomes.status == RequestStatus.LOST).all()
    assert np.isnan(done.sent_s).sum() == done.client.waited == 3
    assert done.client.waited_max_s == 0.0


async def test_a_connection_that_the_server_closes_when_it_is_idle_costs_nothing() -> None:
    load = workload([0.0] * 3 + [0.5] * 3)
    async with listening(in_process().protocol, keep_alive_s=0.05) as listener:
        done = await replay(f"http://{LOOPBACK}:{listener.port}", load)
    assert (done.outcomes.status == RequestStatus.ANSWERED).all()
    assert done.client.waited == 3, "all were closed meanwhile"


def test_a_server_that_closes_connections_costs_only_the_requests_on_them() -> None:
    closed: list[bytes] = []

    def closing(number: int, head: bytes) -> bytes | None:
        if head.startswith(b"POST") and number == 5:
            closed.append(head)
            return None
        return answer(number, head)

    with tiny_server(closing) as port:
        load = workload(np.linspace(0, 0.2, 100))
        done = run_replay(f"http://{LOOPBACK}:{port}", load, connections=2, grace_s=60)
    failed = done.outcomes.status == RequestStatus.FAILED
    assert len(closed) == failed.sum() > 5
    assert (done.outcomes.status[~failed] == RequestStatus.ANSWERED).all()
    assert np.isnan(done.outcomes.finished_s[failed]).all()
    assert "connection was lost" in done.first_failure


async def test_a_service_that_dies_fails_all_that_come_later_and_ends_the_run() -> None:
    server: asyncio.Server
    taken: list[asyncio.StreamWriter] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer)
        number = 0
        while head := await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b"":
            length = head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length or 0))
            if head.startswith(b"POST"):
                number += 1
            if number == 3:
                server.close()
                for each in taken:
                    each.transport.abort()
                return
            writer.write(answer(number, head))

    def quiet(loop: asyncio.AbstractEventLoop, context: object) -> None:
        """Readers are interrupted: that is what this test does."""

    asyncio.get_running_loop().set_exception_handler(quiet)
    server = await asyncio.start_server(talk, LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    load = workload(np.linspace(0, 0.1, 30))
    done = await replay(f"http://{LOOPBACK}:{port}", load, connections=1, grace_s=60)
    assert (done.outcomes.status[:2] == RequestStatus.ANSWERED).all()
    assert (done.outcomes.status[2:] == RequestStatus.FAILED).all()


def test_the_same_runs_in_a_loop_of_its_own_whatever_the_inputs() -> None:
    bodies: list[bytes] = []
    with tiny_server(lambda number, head: bodies.append(head) or answer(number, head)) as port:  # type: ignore[func-returns-value]
        done = run_replay(f"http://localhost:{port}/", workload([0.0, 0.01]), policy="slack")
    assert done.outcomes.policy == "slack"
    assert done.outcomes.variant.tolist() == [1, 1]
    assert np.isnan(done.reported.predicted_s).all(), "it said nothing of that"


@pytest.mark.skipif(sys.platform != "linux", reason="others have no such priorities")
def test_a_thread_is_urgent_for_a_while_where_it_may_be() -> None:
    before = os.sched_getscheduler(0)
    assert before != os.SCHED_FIFO, "a run before this one left it so"
    with real_time_scheduling() as is_real_time:
        assert os.sched_getscheduler(0) == (os.SCHED_FIFO if is_real_time else before)
    assert os.sched_getscheduler(0) == before
    with tiny_server(answer) as port:
        done = run_replay(f"http://{LOOPBACK}:{port}", workload([0.0]))
    assert done.client.is_real_time == is_real_time
    assert os.sched_getscheduler(0) == before


@pytest.mark.parametrize(
    ("url", "arrivals_s", "connections", "match"),
    [
        pytest.param("http://127.0.0.1:1", [], 1, "no request", id="an empty workload"),
        pytest.param("http://127.0.0.1:1", [0.0], 0, "at least 1", id="no connection"),
        pytest.param("https://127.0.0.1:1", [0.0], 1, "http://HOST:PORT", id="another scheme"),
        pytest.param("127.0.0.1:1", [0.0], 1, "http://HOST:PORT", id="no scheme"),
        pytest.param(f"http://127.0.0.1:{free_port()}", [0.0], 1, "nothing", id="no service"),
    ],
)
def test_what_cannot_be_replayed_is_said_before_anything_is_sent(
    url: str, arrivals_s: list[float], connections: int, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        run_replay(url, workload(arrivals_s), connections=connections)

"""Variants that a gateway computes in its own process: loaded, replaced, released, failing."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.serving.gateway.lineups import ChangingGateway, changing_gateway
from tests.serving.gateway.test_generations import BOTH, Gate, infer, load, metric
from tests.waiting import GIVE_UP_S, until

MESSAGE = "model.onnx is damaged: its hash is wrong"


@pytest.fixture
async def changing(two_inputs_catalog: Path) -> AsyncIterator[ChangingGateway]:
    async with changing_gateway(two_inputs_catalog, hosts={"in_gateway": "all"}) as changing:
        yield changing


def client_of(changing: ChangingGateway) -> httpx.AsyncClient:
    url = f"http://127.0.0.1:{changing.gateway.http_port}"
    return httpx.AsyncClient(base_url=url, timeout=GIVE_UP_S, verify=False)


@pytest.fixture
async def client(changing: ChangingGateway) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(changing) as client:
        yield client


def compute_threads() -> int:
    return sum(thread.name == "compute" for thread in threading.enumerate())


async def test_a_gateway_serves_what_it_has_loaded(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> None:
    for hosts in changing.registry.hosts.values():
        for host in hosts:
            host.close()
    answer = await infer(client, variant="coarse")
    assert (answer["status"], answer["generation"]) == (200, 1)
    assert sorted(changing.loads) == [("coarse", 1), ("dense", 1)]
    report = changing.report("coarse", 1)
    assert report is not None
    assert (report.state, report.replicas) == ("routed", 1)
    assert await metric(client, "paretoserve_replicas", variant="coarse") == 1
    assert await metric(client, "paretoserve_variant_failing") == 0
    changing.gateway.check_health()


async def test_a_variant_is_replaced_and_the_former_one_is_released(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> None:
    threads = compute_threads()
    async with load(client, variant="coarse") as counts:
        changing.serve(BOTH, {"coarse": 2})
        await changing.becomes("coarse", 2, "warm")
        changing.serve({**BOTH, "coarse": 2})
        await changing.becomes("coarse", 2, "routed")
        await changing.becomes("coarse", 1, None)
    assert counts.keys() == {("coarse", 1), ("coarse", 2)}
    await until(lambda: compute_threads() == threads)
    changing.serve({**BOTH, "coarse": 1})
    await changing.becomes("coarse", 1, "routed")
    answer = await infer(client, variant="coarse")
    assert answer["generation"] == 1, "it is loaded again"


async def test_a_former_generation_answers_the_requests_that_it_has(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> None:
    gate = changing.runs["coarse", 2] = Gate("coarse")
    changing.serve({**BOTH, "coarse": 2})
    await changing.becomes("coarse", 2, "routed")
    async with load(client, variant="coarse") as counts:
        gate.is_open.clear()
        changing.serve({**BOTH, "coarse": 3})
        await changing.becomes("coarse", 3, "routed")
        assert changing.state("coarse", 2) == "draining"
        gate.is_open.set()
        await changing.becomes("coarse", 2, None)
    assert counts.keys() == {("coarse", 2), ("coarse", 3)}
    del changing.runs["coarse", 2]
    released = weakref.ref(gate)
    del gate
    await until(lambda: not gc.collect() and released() is None)


async def test_a_generation_that_cannot_be_loaded_says_why_and_is_tried_again(
    changing: ChangingGateway, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.gateway.local_hosts.FIRST_RETRY_S", 0.01)
    changing.load_errors["coarse", 2] = MESSAGE
    async with load(client, variant="coarse") as counts:
        changing.serve(BOTH, {"coarse": 2})
        await changing.becomes("coarse", 2, "failed")
        report = changing.report("coarse", 2)
        assert report is not None
        assert report.error == MESSAGE
        await until(lambda: changing.loads.count(("coarse", 2)) > 1)
        del changing.load_errors["coarse", 2]
        await changing.becomes("coarse", 2, "warm")
    assert counts.keys() == {("coarse", 1)}


async def test_a_service_starts_without_a_variant_that_cannot_be_loaded(
    two_inputs_catalog: Path,
) -> None:
    with ExitStack() as stack:
        changing = ChangingGateway(two_inputs_catalog, stack, hosts={"in_gateway": "all"})
        changing.load_errors["coarse", 1] = MESSAGE
        await changing.gateway.start()
        changing.serve(BOTH)
        await until(lambda: changing.gateway.is_ready)
        report = changing.report("coarse", 1)
        assert report is not None
        assert (report.state, report.replicas, report.error) == ("routed", 0, MESSAGE)
        async with client_of(changing) as client:
            ready = await client.get("/v2/models/words/versions/coarse/ready")
            assert ready.status_code == 503
            assert MESSAGE in ready.text
            assert (await infer(client))["status"] == 200
            assert await metric(client, "paretoserve_variant_failing", variant="coarse") == 1
        await changing.gateway.close()


async def test_some_variants_are_computed_in_the_gateway_and_others_by_hosts(
    two_inputs_catalog: Path,
) -> None:
    async with changing_gateway(two_inputs_catalog, hosts={"in_gateway": ["coarse"]}) as changing:
        assert changing.loads == [("coarse", 1)]
        async with client_of(changing) as client:
            for name in ("dense", "coarse"):
                assert (await infer(client, variant=name))["status"] == 200
            changing.registry.hosts["dense", 1][0].close()
            await until(lambda: changing.report("dense", 1).replicas == 0)  # type: ignore[union-attr]
            assert (await infer(client, variant="coarse"))["status"] == 200
            assert (await infer(client, variant="dense", slo_latency_ms=400))["status"] == 503


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_gateway_whose_compute_thread_has_ended_is_not_healthy(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> None:
    def end(arrays: object) -> dict[str, object]:
        raise SystemExit

    changing.runs["coarse", 2] = end
    changing.serve(BOTH, {"coarse": 2})
    await until(lambda: changing.state("coarse", 2) == "starting")

    def is_unhealthy() -> bool:
        try:
            changing.gateway.check_health()
        except RuntimeError as error:
            return "coarse@2" in str(error)
        return False

    await until(is_unhealthy)


async def test_a_closed_gateway_has_no_compute_threads(two_inputs_catalog: Path) -> None:
    before = compute_threads()
    async with changing_gateway(two_inputs_catalog, hosts={"in_gateway": "all"}) as changing:
        for hosts in changing.registry.hosts.values():
            for host in hosts:
                host.close()
        assert compute_threads() == before + 2
    await until(lambda: compute_threads() == before)

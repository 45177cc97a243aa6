"""Generations that are added, replaced and removed while a gateway serves, with real hosts."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from operator import le
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from tests.service import metric_value
from tests.serving.gateway.lineups import ChangingGateway, changing_gateway
from tests.serving.gateway.two_inputs import NUMBERS, Arrays, answers, inputs
from tests.serving.gateway.two_inputs_client import DATATYPES, assert_close
from tests.serving.link.hosts import TIMEOUT_S, in_time
from tests.waiting import GIVE_UP_S, until

INFER = "/v2/models/words/infer"

BOTH = {"dense": 1, "coarse": 1}


@pytest.fixture
async def changing(two_inputs_catalog: Path) -> AsyncIterator[ChangingGateway]:
    async with changing_gateway(two_inputs_catalog) as changing:
        yield changing


@pytest.fixture
async def client(changing: ChangingGateway) -> AsyncIterator[httpx.AsyncClient]:
    url = f"http://127.0.0.1:{changing.gateway.http_port}"
    async with httpx.AsyncClient(base_url=url, timeout=GIVE_UP_S, verify=False) as client:
        yield client


def body(arrays: Arrays, **parameters: Any) -> dict[str, Any]:
    tensors = [
        {"name": n, "datatype": DATATYPES[n], "shape": a.shape, "data": a.reshape(-1).tolist()}
        for n, a in arrays.items()
    ]
    return {"inputs": tensors, "parameters": parameters}


async def infer(client: httpx.AsyncClient, **parameters: Any) -> dict[str, Any]:
    """Return the parameters of the answer to a request, or its error."""
    response = await client.post(INFER, json=body(inputs(1, 4), **parameters))
    document: dict[str, Any] = response.json()
    return {"status": response.status_code, **document.get("parameters", document)}


async def metric(client: httpx.AsyncClient, name: str, **labels: str) -> float:
    return metric_value((await client.get("/metrics")).text, name, **labels)


class Gate:
    """A runner that waits until it is opened."""

    def __init__(self, variant: str) -> None:
        self._variant = variant
        self.is_open = threading.Event()
        self.is_open.set()
        self.calls = 0

    def __call__(self, arrays: Arrays) -> Arrays:
        self.calls += 1
        assert self.is_open.wait(TIMEOUT_S)
        return answers(self._variant, arrays)


@asynccontextmanager
async def load(client: httpx.AsyncClient, **parameters: Any) -> AsyncIterator[Counter[Any]]:
    """Send requests one after the other on several connections; count their answers.

    They count by variant and generation, errors by their status.
    """
    counts: Counter[Any] = Counter()
    arrays = inputs(2, 4)
    is_stopped = False

    async def send() -> None:
        while not is_stopped:
            response = await client.post(INFER, json=body(arrays, **parameters))
            if response.status_code != 200:
                counts[response.status_code] += 1
                continue
            document = response.json()
            variant = document["model_version"]
            counts[variant, document["parameters"]["generation"]] += 1
            if variant in NUMBERS:
                outputs = {
                    each["name"]: np.reshape(each["data"], each["shape"])
                    for each in document["outputs"]
                }
                assert_close(outputs, answers(variant, arrays))

    tasks = [asyncio.create_task(send()) for _ in range(6)]
    try:
        await until(lambda: counts.total() >= 20)
        yield counts
        before = counts.total()
        await until(lambda: counts.total() >= before + 20)
    finally:
        is_stopped = True
        await in_time(asyncio.gather(*tasks))


async def test_a_warming_generation_is_timed_but_gets_no_request(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> None:
    gate = Gate("coarse")
    changing.start_host("coarse", 2, gate)
    async with load(client, variant="coarse") as counts:
        changing.serve(BOTH, {"coarse": 2})
        assert changing.state("coarse", 2) == "starting"
        await changing.becomes("coarse", 2, "warm")
        timed = gate.calls
        assert timed > 1
    assert counts.keys() == {("coarse", 1)}
    assert gate.calls == timed
    report = changing.report("coarse", 2)
    assert report is not None
    assert report.replicas == 1


async def test_a_variant_is_replaced_under_load_without_a_failed_request(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> None:
    async with load(client, variant="coarse") as counts:
        changing.start_host("coarse", 2)
        changing.serve(BOTH, {"coarse": 2})
        await changing.becomes("coarse", 2, "warm")
        changing.serve({**BOTH, "coarse": 2})
        assert changing.state("coarse", 2) == "routed"
        await changing.becomes("coarse", 1, None)
        seen = counts["coarse", 2]
        await until(lambda: counts["coarse", 2] > seen + 20)
        last = counts["coarse", 1]
    assert counts.keys() == {("coarse", 1), ("coarse", 2)}
    assert counts["coarse", 1] == last, "the former generation still gets requests"
    statistics = (await client.get("/v2/models/words/versions/coarse/stats")).json()
    (entry,) = statistics["model_stats"]
    assert entry["inference_stats"]["success"]["count"] == counts["coarse", 2]
    labels = {"variant": "coarse", "outcome": "answered"}
    assert await metric(client, "paretoserve_requests_total", **labels) == counts["coarse", 2]
    assert await metric(client, "paretoserve_variant_info", variant="coarse", generation="2") == 1
    assert await metric(client, "paretoserve_variant_info", variant="coarse", generation="1") == 0


async def test_a_generation_is_not_published_before_all_its_hosts_are_warm(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> None:
    async with load(client, variant="coarse") as counts:
        changing.serve({**BOTH, "coarse": 2})  # without hosts
        assert changing.state("coarse", 1) == "routed"
        assert changing.state("coarse", 2) == "starting"
        before = counts["coarse", 1]
        await until(lambda: counts["coarse", 1] > before + 20)
        changing.start_host("coarse", 2)
        await changing.becomes("coarse", 2, "routed")
    assert counts.keys() == {("coarse", 1), ("coarse", 2)}


async def batch_in_flight(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> tuple[Gate, asyncio.Task[dict[str, Any]]]:
    """Route to a second generation, and hold a batch in its host; return what opens its gate."""
    gate = Gate("coarse")
    changing.start_host("coarse", 2, gate)
    changing.serve({**BOTH, "coarse": 2})
    await changing.becomes("coarse", 2, "routed")
    gate.is_open.clear()
    before = gate.calls
    pending = asyncio.create_task(infer(client, variant="coarse"))
    await until(lambda: gate.calls == before + 1)
    return gate, pending


async def test_a_batch_in_flight_is_answered_by_the_generation_that_runs_it(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> None:
    gate, pending = await batch_in_flight(changing, client)
    queued = asyncio.create_task(infer(client, variant="coarse"))
    await until(lambda: changing.gateway._scheduler.queued == 1)
    changing.accuracies["coarse", 3] = 0.5
    changing.start_host("coarse", 3)
    changing.serve({**BOTH, "coarse": 3})
    await changing.becomes("coarse", 3, "routed")
    assert changing.state("coarse", 2) == "draining"
    new = await in_time(infer(client, variant="coarse"))
    assert (new["generation"], new["accuracy"]) == (3, 0.5)
    gate.is_open.set()
    for answer in await in_time(asyncio.gather(pending, queued)):
        assert (answer["generation"], answer["accuracy"]) == (2, 0.8)
    await changing.becomes("coarse", 2, None)
    labels = {"variant": "coarse", "outcome": "answered"}
    assert await metric(client, "paretoserve_requests_total", **labels) == 1
    labels["variant"] = ""
    assert await metric(client, "paretoserve_requests_total", **labels) == 2


async def test_a_queued_request_never_gets_a_new_generation_below_its_accuracy_floor(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> None:
    gate = Gate("coarse")
    changing.accuracies["coarse", 2] = 0.95
    changing.start_host("coarse", 2, gate)
    changing.serve({**BOTH, "coarse": 2})
    await changing.becomes("coarse", 2, "routed")
    gate.is_open.clear()
    before = gate.calls
    first = asyncio.create_task(infer(client, min_accuracy=0.93))
    await until(lambda: gate.calls == before + 1)
    second = asyncio.create_task(infer(client, min_accuracy=0.93))
    await until(lambda: changing.gateway._scheduler.queued == 1)
    changing.start_host("coarse", 3)  # with the accuracy of the catalog
    changing.serve({**BOTH, "coarse": 3})
    await changing.becomes("coarse", 3, "routed")
    assert (await infer(client, min_accuracy=0.93))["status"] == 422
    gate.is_open.set()
    for answer in await in_time(asyncio.gather(first, second)):
        assert (answer["status"], answer["accuracy"]) == (200, 0.95)


async def test_a_variant_is_added_and_removed_under_load_without_a_failed_request(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> None:
    changing.accuracies["better", 1] = 0.99
    gate = Gate("dense")
    gate.is_open.clear()
    changing.start_host("better", 1, gate)
    async with load(client) as counts:
        changing.serve({**BOTH, "better": 1})
        assert (await infer(client, variant="better"))["status"] == 404, "it has no warm hosts"
        gate.is_open.set()
        await changing.becomes("better", 1, "routed")
        await until(lambda: counts["better", 1] > 20)
        document = (await client.get("/openapi.json")).json()
        parameters = document["components"]["parameters"]
        assert parameters["variant"]["schema"]["enum"] == ["dense", "better", "coarse"]
        changing.serve(BOTH)
        await changing.becomes("better", 1, None)
    assert counts.keys() == {("dense", 1), ("better", 1)}
    answer = await infer(client, variant="better")
    assert answer["status"] == 404
    assert "there is no variant 'better'; there are dense, coarse" in answer["error"]
    document = (await client.get("/v2/models/words")).json()
    assert document["versions"] == ["dense", "coarse"]
    assert '"better"' not in (await client.get("/metrics")).text


async def test_queued_requests_that_only_a_removed_variant_can_answer_are_answered(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> None:
    gate, first = await batch_in_flight(changing, client)
    rest = [asyncio.create_task(infer(client, variant="coarse")) for _ in range(3)]
    await until(lambda: changing.gateway._scheduler.queued == 3)
    changing.serve({"dense": 1})
    assert (await infer(client, variant="coarse"))["status"] == 404
    assert (await infer(client))["status"] == 200
    assert changing.state("coarse", 2) == "draining"
    gate.is_open.set()
    for answer in await in_time(asyncio.gather(first, *rest)):
        assert (answer["status"], answer["variant"]) == (200, "coarse")
    await changing.becomes("coarse", 2, None)


async def test_hosts_that_do_not_load_are_reported_with_the_cause_and_the_former_ones_serve(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> None:
    changing.registry.failures["coarse", 2] = "ValueError: model.onnx is damaged"
    async with load(client, variant="coarse") as counts:
        changing.serve(BOTH, {"coarse": 2})
        await changing.becomes("coarse", 2, "failed")
        report = changing.report("coarse", 2)
        assert report is not None
        assert report.error == "ValueError: model.onnx is damaged"
        changing.serve(BOTH)
        await changing.becomes("coarse", 2, None)
    assert counts.keys() == {("coarse", 1)}


async def test_readiness_names_the_cause_without_the_folders_and_the_report_has_them(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> None:
    error = "ValueError: /srv/secret/coarse/model.onnx is damaged"
    changing.registry.failures["coarse", 1] = error
    changing.registry.hosts |= {("dense", 1): [], ("coarse", 1): []}
    readiness = changing.gateway._dataplane.readiness
    await until(lambda: "coarse: " in readiness.unready_reason(None))
    for path in ("/v2/health/ready", "/-/healthz"):
        response = await client.get(path)
        assert response.status_code == 503
        assert "coarse: ValueError: model.onnx is damaged" in response.text
    index = (await client.post("/v2/repository/index")).json()
    reasons = {each["version"]: each["reason"] for each in index}
    assert reasons["coarse"] == "ValueError: model.onnx is damaged"
    report = changing.report("coarse", 1)
    assert report is not None
    assert report.error == error


async def test_a_generation_without_a_record_is_reported_and_changes_nothing(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> None:
    from serving.control.state import Lineup

    lineup = Lineup(revision=9, published={"dense": 1, "coarse": 2}, warming={})
    changing.gateway.update(lineup, {("dense", 1): changing.record("dense", 1)})
    report = changing.report("coarse", 2)
    assert report is not None
    assert (report.state, report.error) == ("failed", "there are no files of coarse@2")
    assert (await infer(client, variant="coarse"))["generation"] == 1


async def test_without_variants_the_gateway_is_not_ready_and_another_one_makes_it_ready(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> None:
    changing.serve({})
    await changing.becomes("dense", 1, None)
    assert (await infer(client))["status"] == 503
    assert (await client.get("/v2/health/ready")).status_code == 503
    changing.serve({"coarse": 1})
    await changing.becomes("coarse", 1, "routed")
    assert (await infer(client))["variant"] == "coarse"


async def test_twenty_adds_and_removes_leave_nothing_behind(
    changing: ChangingGateway, client: httpx.AsyncClient
) -> None:
    gc.collect()  # what other tests have left
    changing.accuracies |= {("better", number): 0.99 for number in range(1, 21)}
    host = changing.start_host("better", 1, lambda arrays: answers("dense", arrays))
    for number in range(1, 21):
        changing.registry.hosts["better", number] = [host]
        changing.serve({**BOTH, "better": number})
        await changing.becomes("better", number, "routed")
        assert (await infer(client))["generation"] == number
        changing.serve(BOTH)
        await changing.becomes("better", number, None)
        assert (await infer(client))["variant"] == "dense"
        if number == 2:
            lines, most = await metric_lines(client), held(changing.gateway)
        if number in range(2, 11):
            most = tuple(map(max, most, held(changing.gateway)))
    assert await metric_lines(client) == lines
    # Sockets are closed a little later.
    await until(lambda: all(map(le, held(changing.gateway), most)))


async def metric_lines(client: httpx.AsyncClient) -> int:
    return len((await client.get("/metrics")).text.splitlines())


def held(gateway: Any) -> tuple[int, ...]:
    """Return how much of everything this process and the gateway hold."""
    process = psutil.Process()
    planner = gateway._scheduler._planner
    parts = gateway._generations._parts
    return (
        process.num_fds(),
        process.num_threads(),
        len(gateway._discovery._tasks),
        len(parts.latency._variants),
        len(planner._exploration._recent),
        len(planner._slots._slots),
        len(parts.pool._hosts),
    )

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from serving.experiment.assignment import Arm, Experiment
from serving.routing.slo import Slo
from tests.serving.builders import MODEL, InProcess, answers, in_process, pixels
from tests.serving.protocol.calls import INFER, assert_answers, body


@pytest.fixture
async def gateway() -> InProcess:
    return in_process()


@pytest.fixture
async def client(gateway: InProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client() as client:
        yield client


METADATA = {
    "name": "shirts",
    "platform": "paretoserve",
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [
        {"name": "logits", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "label", "datatype": "INT64", "shape": [-1]},
    ],
}
SERVER = {
    "name": "paretoserve",
    "version": "1.2.3",
    "extensions": ["binary_tensor_data", "model_configuration", "parameters", "schedule_policy"],
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2", SERVER),
        ("/v2/", SERVER),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True, "live": True}),
        ("/v2/models", {"models": ["shirts"]}),
        ("/v2/models/shirts", {**METADATA, "versions": ["dense", "int8"]}),
        ("/v2/models/shirts/versions/int8", {**METADATA, "versions": ["int8"]}),
        ("/v2/models/shirts/ready", {"name": "shirts", "ready": True}),
        ("/v2/models/shirts/versions/int8/ready", {"name": "shirts", "ready": True}),
    ],
)
async def test_what_can_be_asked(client: httpx.AsyncClient, path: str, expected: object) -> None:
    response = await client.get(path)
    assert (response.status_code, response.json()) == (200, expected)
    assert response.headers["content-type"] == "application/json"


async def test_the_pod_is_healthy_in_the_words_that_kuberay_wants(
    client: httpx.AsyncClient,
) -> None:
    response = await client.get("/-/healthz")
    assert (response.status_code, response.text) == (200, "success")


async def test_a_scrape_sees_the_requests_before_it(client: httpx.AsyncClient) -> None:
    await client.post(INFER, json=body())
    await client.post(INFER, json=body(parameters={"min_accuracy": 0.99}))
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    lines = response.text.splitlines()
    answered = 'arm="",model="shirts",outcome="answered",variant="dense"'
    assert f"paretoserve_requests_total{{{answered}}} 1.0" in lines
    assert 'paretoserve_errors_total{error="SloUnattainable",model="shirts"} 1.0' in lines


@pytest.mark.parametrize("samples", [1, 7, 64])
async def test_a_json_request_gets_a_json_answer(client: httpx.AsyncClient, samples: int) -> None:
    array = pixels(samples)
    assert_answers(await client.post(INFER, json=body(array)), "dense", array)


async def test_an_answer_says_why(client: httpx.AsyncClient) -> None:
    response = await client.post(INFER, json=body(parameters={"slo_latency_ms": 60_000}))
    why = response.json()["parameters"]
    assert why.pop("latency_ms") >= why.pop("queue_ms") >= 0
    assert why.pop("predicted_latency_ms") > 0
    assert why == {
        "variant": "dense",
        "reason": "most accurate variant that qualifies",
        "accuracy": 0.9,
        "compute_ms": 0.1,
        "batch_size": 1,
        "deadline_met": True,
    }


async def test_an_id_comes_back(client: httpx.AsyncClient) -> None:
    assert (await client.post(INFER, json=body(id="a-1"))).json()["id"] == "a-1"
    assert "id" not in (await client.post(INFER, json=body())).json()


async def test_only_the_outputs_asked_for_come_in_their_order(client: httpx.AsyncClient) -> None:
    for names in (["label"], ["label", "logits"], ["logits", "label"]):
        document = body(outputs=[{"name": name} for name in names])
        answer = (await client.post(INFER, json=document)).json()
        assert [own["name"] for own in answer["outputs"]] == names


async def test_a_binary_request_gets_a_binary_answer(client: httpx.AsyncClient) -> None:
    array = pixels(3)
    document = body(array, parameters={"binary_data_output": True})
    del document["inputs"][0]["data"]
    document["inputs"][0]["parameters"] = {"binary_data_size": array.nbytes}
    head = orjson.dumps(document)
    headers = {"Inference-Header-Content-Length": str(len(head))}
    response = await client.post(INFER, content=head + array.tobytes(), headers=headers)

    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers["inference-header-content-length"])
    logits, label = orjson.loads(response.content[:length])["outputs"]
    assert logits["parameters"] == {"binary_data_size": 36}
    assert label["parameters"] == {"binary_data_size": 24}
    expected = answers("dense", {"pixels": array})
    raw = expected["logits"].tobytes() + expected["label"].tobytes()
    assert response.content[length:] == raw


async def test_one_output_can_be_binary_and_another_json(client: httpx.AsyncClient) -> None:
    asked = [{"name": "logits", "parameters": {"binary_data": True}}, {"name": "label"}]
    response = await client.post(INFER, json=body(outputs=asked))
    length = int(response.headers["inference-header-content-length"])
    logits, label = orjson.loads(response.content[:length])["outputs"]
    expected = answers("dense", {"pixels": pixels()})
    assert response.content[length:] == expected["logits"].tobytes()
    assert "data" not in logits
    assert label["data"] == expected["label"].tolist()


@pytest.mark.parametrize(
    ("path", "headers", "parameters", "variant"),
    [
        pytest.param(INFER, {}, {}, "dense", id="nothing said: the most accurate"),
        pytest.param(INFER, {"x-slo-variant": "int8"}, {}, "int8", id="a header"),
        pytest.param(INFER, {"X-SLO-Variant": "int8"}, {}, "int8", id="a header in any case"),
        pytest.param(INFER, {}, {"variant": "int8"}, "int8", id="a parameter"),
        pytest.param(
            INFER, {"x-slo-variant": "dense"}, {"variant": "int8"}, "int8", id="over a header"
        ),
        pytest.param(
            "/v2/models/shirts/versions/int8/infer", {}, {}, "int8", id="the version of the path"
        ),
        pytest.param(
            "/v2/models/shirts/versions/int8/infer",
            {"x-slo-variant": "dense"},
            {"variant": "dense"},
            "int8",
            id="over both",
        ),
        pytest.param(INFER, {"x-slo-objective": "cost"}, {}, "int8", id="an objective"),
        pytest.param(
            INFER, {"x-slo-objective": "cost"}, {"min_accuracy": 0.89}, "dense", id="and a floor"
        ),
        pytest.param(
            INFER,
            {"x-slo-latency-ms": "0.8", "x-slo-priority": "1"},
            {"slo_latency_ms": 60_000},
            "dense",
            id="a long deadline over a short one",
        ),
    ],
)
async def test_who_answers(
    client: httpx.AsyncClient,
    path: str,
    headers: dict[str, str],
    parameters: dict[str, Any],
    variant: str,
) -> None:
    document = body(parameters=parameters)
    response = await client.post(path, json=document, headers=headers)
    assert_answers(response, variant, pixels())


async def test_what_a_request_does_not_say_comes_from_the_default() -> None:
    async with in_process(default_slo=Slo(objective="cost")).client() as client:
        assert_answers(await client.post(INFER, json=body()), "int8", pixels())
        headers = {"x-slo-objective": "accuracy"}
        response = await client.post(INFER, json=body(), headers=headers)
        assert_answers(response, "dense", pixels())


async def test_concurrent_requests_share_batches_and_get_their_own_answers(
    client: httpx.AsyncClient,
) -> None:
    samples = [pixels(1 + i % 3, start=100 * i) for i in range(40)]
    responses = await asyncio.gather(*(client.post(INFER, json=body(array)) for array in samples))
    for response, array in zip(responses, samples, strict=True):
        assert_answers(response, "dense", array)
    assert max(response.json()["parameters"]["batch_size"] for response in responses) > 3


EXPERIMENT = Experiment(
    name="try-int8",
    arms=(
        Arm(name="control", target="dense", weight=1),
        Arm(name="small", target="int8", weight=1),
    ),
)


async def test_the_arm_of_an_experiment_is_in_the_answer_and_sticks_to_its_unit() -> None:
    variants = {"control": "dense", "small": "int8"}
    seen = set()
    async with in_process(experiment=EXPERIMENT).client() as client:
        for unit in [f"user-{i}" for i in range(10)] * 2:
            headers = {"x-experiment-unit": unit}
            response = await client.post(INFER, json=body(), headers=headers)
            arm = EXPERIMENT.assign(unit).name
            assert_answers(response, variants[arm], pixels())
            why = response.json()["parameters"]
            assert (why["experiment"], why["arm"]) == ("try-int8", arm)
            assert why["reason"] == f"arm {arm} of the experiment"
            seen.add(arm)
    assert seen == set(variants)


async def test_who_pins_a_variant_is_in_no_experiment() -> None:
    async with in_process(experiment=EXPERIMENT).client() as client:
        response = await client.post(INFER, json=body(parameters={"variant": "int8"}))
    assert_answers(response, "int8", pixels())
    assert "arm" not in response.json()["parameters"]


def test_the_model_of_these_tests_is_what_the_routes_name() -> None:
    assert f"/v2/models/{MODEL.name}/infer" == INFER


async def test_a_clients_own_parameters_come_back_and_none_of_the_protocols_or_ours(
    client: httpx.AsyncClient,
) -> None:
    own = {"tenant": "a", "attempt": 2, "dry": False}
    others = {"sequence_id": 7, "triton_x": True, "arm": "b", "experiment": "c", "timeout": 10**9}
    answer = (await client.post(INFER, json=body(parameters={**own, **others, "reason": 1}))).json()
    parameters = answer["parameters"]
    assert own.items() <= parameters.items()
    assert parameters.keys().isdisjoint(others)
    assert parameters["reason"] == "most accurate variant that qualifies"

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
async def test_get_routes(client: httpx.AsyncClient, path: str, expected: object) -> None:
    response = await client.get(path)
    assert (response.status_code, response.json()) == (200, expected)
    assert response.headers["content-type"] == "application/json"


async def test_healthz_returns_the_text_that_kuberay_expects(
    client: httpx.AsyncClient,
) -> None:
    response = await client.get("/-/healthz")
    assert (response.status_code, response.text) == (200, "success")


async def test_the_metrics_include_earlier_requests(client: httpx.AsyncClient) -> None:
    await client.post(INFER, json=body())
    await client.post(INFER, json=body(parameters={"min_accuracy": 0.99}))
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    lines = response.text.splitlines()
    answered = 'arm="",model="shirts",outcome="answered",variant="dense"'
    assert f"paretoserve_requests_total{{{answered}}} 1.0" in lines
    assert 'paretoserve_errors_total{error="SloUnattainable",model="shirts"} 1.0' in lines


@pytest.mark.parametrize("samples", [1, 7, 64])
async def test_a_json_request_gets_a_json_response(client: httpx.AsyncClient, samples: int) -> None:
    array = pixels(samples)
    assert_answers(await client.post(INFER, json=body(array)), "dense", array)


async def test_the_response_explains_the_choice(client: httpx.AsyncClient) -> None:
    response = await client.post(INFER, json=body(parameters={"slo_latency_ms": 60_000}))
    explanation = response.json()["parameters"]
    assert explanation.pop("latency_ms") >= explanation.pop("queue_ms") >= 0
    assert explanation.pop("predicted_latency_ms") > 0
    assert explanation == {
        "variant": "dense",
        "generation": 1,
        "reason": "most accurate variant that qualifies",
        "accuracy": 0.9,
        "compute_ms": 0.1,
        "batch_size": 1,
        "deadline_met": True,
    }


async def test_the_id_of_the_request_is_returned(client: httpx.AsyncClient) -> None:
    assert (await client.post(INFER, json=body(id="a-1"))).json()["id"] == "a-1"
    assert "id" not in (await client.post(INFER, json=body())).json()


async def test_requested_outputs_are_returned_in_their_order(client: httpx.AsyncClient) -> None:
    for names in (["label"], ["label", "logits"], ["logits", "label"]):
        document = body(outputs=[{"name": name} for name in names])
        response = (await client.post(INFER, json=document)).json()
        assert [output["name"] for output in response["outputs"]] == names


async def test_a_binary_request_gets_a_binary_response(client: httpx.AsyncClient) -> None:
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
    requested = [{"name": "logits", "parameters": {"binary_data": True}}, {"name": "label"}]
    response = await client.post(INFER, json=body(outputs=requested))
    length = int(response.headers["inference-header-content-length"])
    logits, label = orjson.loads(response.content[:length])["outputs"]
    expected = answers("dense", {"pixels": pixels()})
    assert response.content[length:] == expected["logits"].tobytes()
    assert "data" not in logits
    assert label["data"] == expected["label"].tolist()


@pytest.mark.parametrize(
    ("path", "headers", "parameters", "variant"),
    [
        pytest.param(INFER, {}, {}, "dense", id="default: the most accurate"),
        pytest.param(INFER, {"x-slo-variant": "int8"}, {}, "int8", id="a header"),
        pytest.param(INFER, {"X-SLO-Variant": "int8"}, {}, "int8", id="a header in any case"),
        pytest.param(INFER, {}, {"variant": "int8"}, "int8", id="a parameter"),
        pytest.param(
            INFER,
            {"x-slo-variant": "dense"},
            {"variant": "int8"},
            "int8",
            id="parameter beside header",
        ),
        pytest.param(
            "/v2/models/shirts/versions/int8/infer", {}, {}, "int8", id="a version in the path"
        ),
        pytest.param(
            "/v2/models/shirts/versions/int8/infer",
            {"x-slo-variant": "dense"},
            {"variant": "int8"},
            "int8",
            id="a version beside the same parameter and another header",
        ),
        pytest.param(INFER, {"x-slo-objective": "cost"}, {}, "int8", id="an objective"),
        pytest.param(
            INFER,
            {"x-slo-objective": "cost"},
            {"min_accuracy": 0.89},
            "dense",
            id="objective with floor",
        ),
        pytest.param(
            INFER,
            {"x-slo-latency-ms": "0.8", "x-slo-priority": "1"},
            {"slo_latency_ms": 60_000},
            "dense",
            id="a long deadline beside a short one in a header",
        ),
    ],
)
async def test_the_variant_is_chosen_by_path_parameters_and_headers(
    client: httpx.AsyncClient,
    path: str,
    headers: dict[str, str],
    parameters: dict[str, Any],
    variant: str,
) -> None:
    document = body(parameters=parameters)
    response = await client.post(path, json=document, headers=headers)
    assert_answers(response, variant, pixels())


async def test_the_default_slo_applies_to_fields_that_a_request_leaves_out() -> None:
    async with in_process(default_slo=Slo(objective="cost")).client() as client:
        assert_answers(await client.post(INFER, json=body()), "int8", pixels())
        headers = {"x-slo-objective": "accuracy"}
        response = await client.post(INFER, json=body(), headers=headers)
        assert_answers(response, "dense", pixels())


async def test_concurrent_requests_share_batches_and_get_their_own_outputs(
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


async def test_a_unit_always_gets_the_same_arm_which_the_response_names() -> None:
    variants = {"control": "dense", "small": "int8"}
    arms = set()
    async with in_process(experiment=EXPERIMENT).client() as client:
        for unit in [f"user-{i}" for i in range(10)] * 2:
            headers = {"x-experiment-unit": unit}
            response = await client.post(INFER, json=body(), headers=headers)
            arm = EXPERIMENT.assign(unit).name
            assert_answers(response, variants[arm], pixels())
            explanation = response.json()["parameters"]
            assert (explanation["experiment"], explanation["arm"]) == ("try-int8", arm)
            assert explanation["reason"] == f"arm {arm} of the experiment"
            arms.add(arm)
    assert arms == set(variants)


async def test_a_request_that_pins_a_variant_takes_part_in_no_experiment() -> None:
    async with in_process(experiment=EXPERIMENT).client() as client:
        response = await client.post(INFER, json=body(parameters={"variant": "int8"}))
    assert_answers(response, "int8", pixels())
    assert "arm" not in response.json()["parameters"]


def test_the_path_of_these_tests_names_their_model() -> None:
    assert f"/v2/models/{MODEL.name}/infer" == INFER


async def test_unknown_parameters_are_returned_and_known_ones_are_not(
    client: httpx.AsyncClient,
) -> None:
    unknown = {"tenant": "a", "attempt": 2, "dry": False}
    known = {"sequence_id": 7, "triton_x": True, "arm": "b", "experiment": "c", "timeout": 10**9}
    response = (
        await client.post(INFER, json=body(parameters={**unknown, **known, "reason": 1}))
    ).json()
    parameters = response["parameters"]
    assert unknown.items() <= parameters.items()
    assert parameters.keys().isdisjoint(known)
    assert parameters["reason"] == "most accurate variant that qualifies"

"""Rules for all four clients of tritonclient: HTTP and gRPC, blocking and asynchronous."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.conformance.cases import (
    MODEL,
    REJECTIONS,
    SLO_REQUESTS,
    VARIANTS,
    Rejection,
    SloRequest,
)
from tests.conformance.triton import Client
from tests.service import ADMIN_TOKEN, SIZE, RunningService, images

pytestmark = pytest.mark.cluster


@pytest.mark.usefixtures("unread_bodies")
async def test_the_server_the_model_and_its_variants_are_ready(client: Client) -> None:
    assert await client.call("is_server_live") is True
    assert await client.call("is_server_ready") is True
    assert await client.call("is_model_ready", MODEL) is True
    for variant in VARIANTS:
        assert await client.call("is_model_ready", MODEL, variant) is True


async def test_the_server_metadata(client: Client) -> None:
    server = await client.call("get_server_metadata")
    assert server["name"] == "paretoserve"
    assert "model_configuration" in server["extensions"]


@pytest.mark.parametrize(("names", "versions"), [((), VARIANTS), (("int8",), ("int8",))])
async def test_the_versions_of_the_model_are_its_variants(
    client: Client, names: tuple[str, ...], versions: tuple[str, ...]
) -> None:
    metadata = await client.call("get_model_metadata", MODEL, *names)
    assert metadata["name"] == MODEL
    assert set(metadata["versions"]) == set(versions)
    ((pixels,), (logits,)) = metadata["inputs"], metadata["outputs"]
    assert (pixels["name"], pixels["datatype"], _numbers(pixels["shape"])) == (
        "input",
        "FP32",
        [-1, SIZE],
    )
    assert (logits["name"], logits["datatype"], _numbers(logits["shape"])) == (
        "logits",
        "FP32",
        [-1, 10],
    )


@pytest.mark.parametrize("names", [(), ("int8",)])
async def test_the_configuration_has_the_largest_batch(
    client: Client, names: tuple[str, ...]
) -> None:
    config = await client.call("get_model_config", MODEL, *names)
    if client.is_grpc:
        config = config["config"]
    assert config["name"] == MODEL
    assert config["max_batch_size"] == 64
    ((pixels,), (logits,)) = config["input"], config["output"]
    assert (pixels["name"], pixels["data_type"], _numbers(pixels["dims"])) == (
        "input",
        "TYPE_FP32",
        [SIZE],
    )
    assert (logits["name"], logits["data_type"], _numbers(logits["dims"])) == (
        "logits",
        "TYPE_FP32",
        [10],
    )


async def test_the_index_lists_every_variant_as_ready(client: Client) -> None:
    index = await client.call("get_model_repository_index")
    models = index["models"] if client.is_grpc else index
    assert {(model["name"], model["version"], model["state"]) for model in models} == {
        (MODEL, variant, "READY") for variant in VARIANTS
    }


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("count", [1, 5, 64])
async def test_a_version_returns_the_outputs_of_its_variant(
    service: RunningService, client: Client, variant: str, count: int
) -> None:
    pixels = images(count)
    answer = await client.infer(MODEL, client.input(pixels), model_version=variant)
    assert answer.variant == variant
    service.check(variant, pixels, answer.logits)


async def test_without_a_version_the_response_names_the_variant(
    service: RunningService, client: Client
) -> None:
    pixels = images(2)
    answer = await client.infer(MODEL, client.input(pixels))
    assert answer.variant == answer.parameters["variant"]
    assert answer.parameters["reason"]
    assert answer.parameters["latency_ms"] > 0
    service.check(answer.variant, pixels, answer.logits)


async def test_a_requested_output_is_returned(service: RunningService, client: Client) -> None:
    pixels = images(3)
    requested = [client.tensors.InferRequestedOutput("logits")]
    answer = await client.infer(
        MODEL, client.input(pixels), model_version="dense", outputs=requested
    )
    service.check("dense", pixels, answer.logits)


@pytest.mark.parametrize("request_id", ["seven", "søvn ☃", "x" * 500])
async def test_the_id_of_a_request_is_returned(client: Client, request_id: str) -> None:
    answer = await client.infer(MODEL, client.input(images(1)), request_id=request_id)
    assert answer.id == request_id


async def test_a_request_without_an_id_gets_none(client: Client) -> None:
    answer = await client.infer(MODEL, client.input(images(1)))
    assert not answer.id


@pytest.mark.parametrize("slo", SLO_REQUESTS.values(), ids=SLO_REQUESTS)
async def test_the_slo_of_a_request_is_applied(
    service: RunningService, client: Client, slo: SloRequest
) -> None:
    pixels = images(2)
    answer = await client.infer(
        MODEL,
        client.input(pixels),
        parameters=dict(slo.parameters),
        headers=dict(slo.headers),
        **slo.options,
    )
    assert answer.parameters.items() >= slo.expected.items()
    service.check(answer.variant, pixels, answer.logits)


@pytest.mark.parametrize("rejection", REJECTIONS.values(), ids=REJECTIONS)
async def test_rejected_requests_get_an_error(client: Client, rejection: Rejection) -> None:
    dtype = {"FP32": np.float32, "FP64": np.float64}[rejection.datatype]
    tensor = client.input(np.zeros(rejection.shape, dtype), rejection.datatype)
    requested = [client.tensors.InferRequestedOutput(rejection.output)]
    with pytest.raises(InferenceServerException) as caught:
        await client.infer(rejection.model, tensor, outputs=requested, **rejection.options)
    _check(client, caught.value, rejection)


UNKNOWN_NAMES = [
    ("get_model_metadata", "other"),
    ("get_model_metadata", MODEL, "nine"),
    ("get_model_config", "other"),
    ("get_model_config", MODEL, "nine"),
    ("get_inference_statistics", "other"),
    ("get_inference_statistics", MODEL, "nine"),
]


@pytest.mark.parametrize("call", UNKNOWN_NAMES, ids=" ".join)
async def test_unknown_names_are_not_found(client: Client, call: tuple[str, ...]) -> None:
    with pytest.raises(InferenceServerException) as caught:
        await client.call(*call)
    _check(client, caught.value, Rejection(404, "NOT_FOUND", "there is no "))


UNSUPPORTED = {
    "get_trace_settings": 404,
    "get_log_settings": 404,
    "get_system_shared_memory_status": 404,
    "get_cuda_shared_memory_status": 404,
}


@pytest.mark.parametrize(("method", "status"), UNSUPPORTED.items())
async def test_unsupported_calls_get_an_error(client: Client, method: str, status: int) -> None:
    with pytest.raises(InferenceServerException) as caught:
        await client.call(method)
    _check(client, caught.value, Rejection(status, "UNIMPLEMENTED", ""))
    assert len(caught.value.message()) > 20


@pytest.mark.parametrize("method", ["load_model", "unload_model"])
async def test_variants_are_loaded_and_unloaded_with_a_token_only(
    client: Client, method: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        await client.call(method, "int8")
    _check(client, caught.value, Rejection(401, "UNAUTHENTICATED", "this needs a token"))


@pytest.mark.slow
async def test_a_variant_is_unloaded_and_loaded_again(client: Client) -> None:
    name, headers = "activation-pruned", {"authorization": f"Bearer {ADMIN_TOKEN}"}
    await client.call("unload_model", name, headers=headers)
    assert (await _index(client))[name] == "UNAVAILABLE"
    with pytest.raises(InferenceServerException) as caught:
        await client.infer(MODEL, client.input(images(1)), model_version=name)
    _check(client, caught.value, Rejection(404, "NOT_FOUND", "there is no variant"))
    await client.call("load_model", name, headers=headers)
    assert await _index(client) == dict.fromkeys(VARIANTS, "READY")
    answer = await client.infer(MODEL, client.input(images(1)), model_version=name)
    assert answer.variant == name


async def _index(client: Client) -> dict[str, str]:
    index = await client.call("get_model_repository_index")
    models = index["models"] if client.is_grpc else index
    return {model["version"]: model["state"] for model in models}


async def test_the_statistics_count_samples_batches_and_requests(client: Client) -> None:
    # Variants that are not in use run shadow batches, which count as batches but not as requests.
    await client.infer(MODEL, client.input(images(1)), model_version="int8")
    before = await _statistics(client, MODEL)
    for count in (1, 3, 8):
        await client.infer(MODEL, client.input(images(count)), model_version="int8")
    after = await _statistics(client, MODEL)
    assert set(after) == set(VARIANTS)
    assert _counts(after["dense"])[-1] == _counts(before["dense"])[-1]
    increase = np.subtract(_counts(after["int8"]), _counts(before["int8"]))
    assert increase.tolist() == [12, 3, 3]
    assert int(after["int8"]["last_inference"]) > int(before["int8"].get("last_inference", 0))
    assert int(after["int8"]["inference_stats"]["success"]["ns"]) > 0
    assert _counts((await _statistics(client, MODEL, "int8"))["int8"]) == _counts(after["int8"])
    assert set(await _statistics(client, MODEL, "int8")) == {"int8"}
    assert set(await _statistics(client)) == set(VARIANTS)


async def test_the_statistics_have_the_memory_of_every_variant(client: Client) -> None:
    for variant in VARIANTS:
        await client.infer(MODEL, client.input(images(1)), model_version=variant)
    for entry in (await _statistics(client, MODEL)).values():
        (memory,) = entry["memory_usage"]
        assert memory["type"] == "CPU"
        assert int(memory["byte_size"]) > 2**20, "any process with a model uses more"


def _check(client: Client, error: InferenceServerException, rejection: Rejection) -> None:
    status = f"StatusCode.{rejection.grpc}" if client.is_grpc else str(rejection.http)
    assert error.status() == status
    assert rejection.message in error.message()


def _numbers(shape: list[Any]) -> list[int]:
    """Return a shape as integers; protobuf's JSON has int64 as strings."""
    return [int(length) for length in shape]


async def _statistics(client: Client, *names: str) -> dict[str, Any]:
    statistics = await client.call("get_inference_statistics", *names)
    return {entry["version"]: entry for entry in statistics["model_stats"]}


def _counts(entry: dict[str, Any]) -> list[int]:
    """Return the numbers of samples, batches and answered requests; protobuf omits zeros."""
    success = entry.get("inference_stats", {}).get("success", {})
    return [
        int(counts.get(name, 0))
        for counts, name in (
            (entry, "inference_count"),
            (entry, "execution_count"),
            (success, "count"),
        )
    ]

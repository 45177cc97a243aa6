"""What holds for each of tritonclient's four clients: HTTP and gRPC, blocking and not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.conformance.cases import MODEL, REFUSALS, VARIANTS, WISHES, Refusal, Wish
from tests.conformance.triton import Client
from tests.service import SIZE, RunningService, images

pytestmark = pytest.mark.cluster


@pytest.mark.usefixtures("unread_bodies")
async def test_the_server_and_its_models_say_that_they_are_ready(client: Client) -> None:
    assert await client.ask("is_server_live") is True
    assert await client.ask("is_server_ready") is True
    assert await client.ask("is_model_ready", MODEL) is True
    for variant in VARIANTS:
        assert await client.ask("is_model_ready", MODEL, variant) is True


async def test_the_server_says_what_it_is_and_offers(client: Client) -> None:
    server = await client.ask("get_server_metadata")
    assert server["name"] == "paretoserve"
    assert "model_configuration" in server["extensions"]


@pytest.mark.parametrize(("asked", "versions"), [((), VARIANTS), (("int8",), ("int8",))])
async def test_the_versions_of_the_model_are_its_variants(
    client: Client, asked: tuple[str, ...], versions: tuple[str, ...]
) -> None:
    metadata = await client.ask("get_model_metadata", MODEL, *asked)
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


@pytest.mark.parametrize("asked", [(), ("int8",)])
async def test_the_configuration_says_how_large_a_batch_may_be(
    client: Client, asked: tuple[str, ...]
) -> None:
    config = await client.ask("get_model_config", MODEL, *asked)
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
    index = await client.ask("get_model_repository_index")
    models = index["models"] if client.is_grpc else index
    assert {(model["name"], model["version"], model["state"]) for model in models} == {
        (MODEL, variant, "READY") for variant in VARIANTS
    }


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("count", [1, 5, 64])
async def test_a_version_answers_what_the_variant_answers(
    service: RunningService, client: Client, variant: str, count: int
) -> None:
    pixels = images(count)
    answer = await client.infer(MODEL, client.input(pixels), model_version=variant)
    assert answer.variant == variant
    service.check(variant, pixels, answer.logits)


async def test_without_a_version_the_answer_names_who_gave_it(
    service: RunningService, client: Client
) -> None:
    pixels = images(2)
    answer = await client.infer(MODEL, client.input(pixels))
    assert answer.variant == answer.parameters["variant"]
    assert answer.parameters["reason"]
    assert answer.parameters["latency_ms"] > 0
    service.check(answer.variant, pixels, answer.logits)


async def test_an_output_that_is_named_is_sent(service: RunningService, client: Client) -> None:
    pixels = images(3)
    asked = [client.tensors.InferRequestedOutput("logits")]
    answer = await client.infer(MODEL, client.input(pixels), model_version="dense", outputs=asked)
    service.check("dense", pixels, answer.logits)


@pytest.mark.parametrize("given", ["seven", "søvn ☃", "x" * 500])
async def test_the_id_of_a_request_is_that_of_its_answer(client: Client, given: str) -> None:
    answer = await client.infer(MODEL, client.input(images(1)), request_id=given)
    assert answer.id == given


async def test_a_request_without_an_id_is_given_none(client: Client) -> None:
    answer = await client.infer(MODEL, client.input(images(1)))
    assert not answer.id


@pytest.mark.parametrize("wish", [pytest.param(wish, id=name) for name, wish in WISHES.items()])
async def test_what_a_request_asks_for_is_kept(
    service: RunningService, client: Client, wish: Wish
) -> None:
    pixels = images(2)
    answer = await client.infer(
        MODEL,
        client.input(pixels),
        parameters=dict(wish.parameters),
        headers=dict(wish.headers),
        **wish.options,
    )
    assert answer.parameters.items() >= wish.answer.items()
    service.check(answer.variant, pixels, answer.logits)


@pytest.mark.parametrize(
    "refusal", [pytest.param(refusal, id=name) for name, refusal in REFUSALS.items()]
)
async def test_what_cannot_be_answered_is_refused(client: Client, refusal: Refusal) -> None:
    dtype = {"FP32": np.float32, "FP64": np.float64}[refusal.datatype]
    tensor = client.input(np.zeros(refusal.shape, dtype), refusal.datatype)
    asked = [client.tensors.InferRequestedOutput(refusal.output)]
    with pytest.raises(InferenceServerException) as caught:
        await client.infer(refusal.model, tensor, outputs=asked, **refusal.options)
    _check(client, caught.value, refusal)


ABOUT_NOTHING = [
    ("get_model_metadata", "other"),
    ("get_model_metadata", MODEL, "nine"),
    ("get_model_config", "other"),
    ("get_model_config", MODEL, "nine"),
    ("get_inference_statistics", "other"),
    ("get_inference_statistics", MODEL, "nine"),
]


@pytest.mark.parametrize("call", ABOUT_NOTHING, ids=" ".join)
async def test_of_what_is_not_here_nothing_is_told(client: Client, call: tuple[str, ...]) -> None:
    with pytest.raises(InferenceServerException) as caught:
        await client.ask(*call)
    _check(client, caught.value, Refusal(404, "NOT_FOUND", "there is no "))


NOT_OFFERED = {
    "load_model": 501,
    "unload_model": 501,
    "get_trace_settings": 404,
    "get_log_settings": 404,
    "get_system_shared_memory_status": 404,
    "get_cuda_shared_memory_status": 404,
}


@pytest.mark.parametrize(("method", "status"), NOT_OFFERED.items())
async def test_what_is_not_offered_is_refused_as_such(
    client: Client, method: str, status: int
) -> None:
    names = [MODEL] if method.endswith("load_model") else []
    with pytest.raises(InferenceServerException) as caught:
        await client.ask(method, *names)
    _check(client, caught.value, Refusal(status, "UNIMPLEMENTED", ""))
    assert len(caught.value.message()) > 20


async def test_the_statistics_count_samples_batches_and_requests(client: Client) -> None:
    before = await _statistics(client, MODEL)
    for count in (1, 3, 8):
        await client.infer(MODEL, client.input(images(count)), model_version="int8")
    after = await _statistics(client, MODEL)
    assert set(after) == set(VARIANTS)
    assert _counts(after["dense"]) == _counts(before["dense"])
    moved = np.subtract(_counts(after["int8"]), _counts(before["int8"]))
    assert moved.tolist() == [12, 3, 3]
    assert int(after["int8"]["last_inference"]) > int(before["int8"].get("last_inference", 0))
    assert int(after["int8"]["inference_stats"]["success"]["ns"]) > 0
    assert _counts((await _statistics(client, MODEL, "int8"))["int8"]) == _counts(after["int8"])
    assert set(await _statistics(client, MODEL, "int8")) == {"int8"}
    assert set(await _statistics(client)) == set(VARIANTS)


async def test_the_statistics_tell_the_memory_of_every_variant(client: Client) -> None:
    for variant in VARIANTS:
        await client.infer(MODEL, client.input(images(1)), model_version=variant)
    for entry in (await _statistics(client, MODEL)).values():
        (memory,) = entry["memory_usage"]
        assert memory["type"] == "CPU"
        assert int(memory["byte_size"]) > 2**20, "a process with a model has more than this"


def _check(client: Client, error: InferenceServerException, refusal: Refusal) -> None:
    status = f"StatusCode.{refusal.grpc}" if client.is_grpc else str(refusal.http)
    assert error.status() == status
    assert refusal.message in error.message()


def _numbers(shape: list[Any]) -> list[int]:
    """A shape; protobuf's JSON has whole numbers as text."""
    return [int(length) for length in shape]


async def _statistics(client: Client, *names: str) -> dict[str, Any]:
    statistics = await client.ask("get_inference_statistics", *names)
    return {entry["version"]: entry for entry in statistics["model_stats"]}


def _counts(entry: dict[str, Any]) -> list[int]:
    """Samples, batches and answered requests so far; protobuf's JSON leaves zeros out."""
    success = entry.get("inference_stats", {}).get("success", {})
    return [
        int(counts.get(name, 0))
        for counts, name in (
            (entry, "inference_count"),
            (entry, "execution_count"),
            (success, "count"),
        )
    ]

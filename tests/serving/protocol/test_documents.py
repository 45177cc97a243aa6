from __future__ import annotations

import pytest

from serving.errors import ModelNotFound
from serving.protocol.control import NO_REPOSITORY
from serving.telemetry.event import Executed, HostUsage
from tests.serving.builders import in_process
from tests.serving.protocol.calls import INFER, assert_error, body

SHIRTS = "/v2/models/shirts"


async def test_the_configuration_is_in_the_format_of_triton() -> None:
    gateway = in_process(slots=2)
    async with gateway.client() as client:
        config = (await client.get(f"{SHIRTS}/config")).json()
        of_int8 = (await client.get(f"{SHIRTS}/versions/int8/config")).json()
    assert config["max_batch_size"] == 64
    assert config["input"] == [{"name": "pixels", "data_type": "TYPE_FP32", "dims": [4]}]
    assert config["output"] == [
        {"name": "logits", "data_type": "TYPE_FP32", "dims": [3]},
        {"name": "label", "data_type": "TYPE_INT64", "dims": []},
    ]
    group = {"kind": "KIND_CPU", "count": 2}
    assert config["instance_group"] == [{"name": "dense", **group}, {"name": "int8", **group}]
    assert of_int8["instance_group"] == [{"name": "int8", **group}]


async def test_the_configuration_names_what_executes_each_variant() -> None:
    gateway = in_process()
    for key, provider in (("dense@1", "CUDAExecutionProvider"), ("int8@1", "torch CPU")):
        gateway.telemetry.statistics.host_usage(HostUsage(key, 1, 5_000, None, provider))
    async with gateway.client() as client:
        config = (await client.get(f"{SHIRTS}/config")).json()
    assert config["parameters"] == {
        "provider.dense": {"string_value": "CUDAExecutionProvider"},
        "provider.int8": {"string_value": "torch CPU"},
    }
    assert [each["kind"] for each in config["instance_group"]] == ["KIND_GPU", "KIND_CPU"]


async def test_the_statistics_count_requests_and_batches() -> None:
    gateway = in_process()
    statistics = gateway.telemetry.statistics
    statistics.executed(Executed("dense@1", 3, input_s=0.001, compute_s=0.002, output_s=0.003))
    statistics.host_usage(HostUsage("dense@1", 1, 5_000, 700))
    async with gateway.client() as client:
        await client.post(INFER, json=body())
        await client.post(f"{SHIRTS}/versions/int8/infer", json=body(id="x"))
        unattainable = body(parameters={"variant": "int8", "slo_latency_ms": 0.001})
        assert_error(await client.post(INFER, json=unattainable), 422, "even when idle")
        documents = [
            (await client.get(path)).json()["model_stats"]
            for path in ("/v2/models/stats", f"{SHIRTS}/stats", f"{SHIRTS}/versions/dense/stats")
        ]
    every, of_model, of_dense = documents
    assert every == of_model
    assert of_dense == every[:1]
    dense, int8 = every
    assert (dense["name"], dense["version"], int8["version"]) == ("shirts", "dense", "int8")
    assert (dense["inference_count"], dense["execution_count"]) == (3, 1)
    assert dense["last_inference"] > 1.7e12, "Unix time in milliseconds"
    assert dense["batch_stats"] == [
        {
            "batch_size": 3,
            "compute_input": {"count": 1, "ns": 1_000_000},
            "compute_infer": {"count": 1, "ns": 2_000_000},
            "compute_output": {"count": 1, "ns": 3_000_000},
        }
    ]
    assert dense["memory_usage"] == [
        {"type": "CPU", "id": 0, "byte_size": 5_000},
        {"type": "GPU", "id": 0, "byte_size": 700},
    ]
    stats = {entry["version"]: entry["inference_stats"] for entry in (dense, int8)}
    for counts in stats.values():
        assert counts["success"]["count"] == counts["queue"]["count"] == 1
        parts = ("queue", "compute_input", "compute_infer", "compute_output")
        assert sum(counts[part]["ns"] for part in parts) <= counts["success"]["ns"]
        assert counts["compute_infer"]["ns"] > 0
        assert counts["cache_hit"] == counts["cache_miss"] == {"count": 0, "ns": 0}
    assert stats["dense"]["fail"]["count"] == 0
    assert stats["int8"]["fail"]["count"] == 1
    assert stats["int8"]["fail"]["ns"] > 0


@pytest.mark.parametrize("content", [b"", b"{}", b'{"ready": false}', b'{"ready": true}'])
async def test_the_index_lists_the_variants(content: bytes) -> None:
    gateway = in_process()
    gateway.scheduler.set_slots("int8@1", 0)
    async with gateway.client() as client:
        index = (await client.post("/v2/repository/index", content=content)).json()
    ready = {"name": "shirts", "version": "dense", "state": "READY", "reason": ""}
    unavailable = {
        "name": "shirts",
        "version": "int8",
        "state": "UNAVAILABLE",
        "reason": "no replica is alive",
    }
    assert index == ([ready] if b"true" in content else [ready, unavailable])


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"ready": 1}', b'{"ready": null}', b"\xff"])
async def test_a_malformed_index_request_is_rejected(content: bytes) -> None:
    async with in_process().client() as client:
        response = await client.post("/v2/repository/index", content=content)
    assert_error(response, 400, "the body ")


@pytest.mark.parametrize("verb", ["load", "unload"])
async def test_loading_models_is_not_supported(verb: str) -> None:
    async with in_process().client() as client:
        response = await client.post(f"/v2/repository/models/shirts/{verb}", json={})
    assert_error(response, 501, NO_REPOSITORY)


@pytest.mark.parametrize("route", ["", "/ready", "/config", "/stats"])
@pytest.mark.parametrize(
    ("path", "message"),
    [("/v2/models/hats", "no model 'hats'"), (f"{SHIRTS}/versions/int4", "no variant 'int4'")],
)
async def test_unknown_names_are_not_found(path: str, route: str, message: str) -> None:
    async with in_process().client() as client:
        assert_error(await client.get(path + route), 404, message)


async def test_every_document_raises_for_unknown_names() -> None:
    documents = in_process().documents
    for document in (documents.model, documents.config, documents.statistics, documents.is_ready):
        with pytest.raises(ModelNotFound):
            document("hats", None)
        with pytest.raises(ModelNotFound):
            document("shirts", "int4")


async def test_a_head_request_is_a_get_without_a_body() -> None:
    async with in_process().client() as client:
        head = await client.head("/v2/health/live")
    assert head.status_code == 200
    assert head.headers["content-type"] == "application/json"


async def test_statistics_of_an_unknown_version_raise_without_a_model_too() -> None:
    with pytest.raises(ModelNotFound, match="no variant 'int4'"):
        in_process().documents.statistics(None, "int4")

from __future__ import annotations

import pytest

from serving.errors import ModelNotFound
from serving.telemetry.event import Executed, HostUsage
from tests.serving.builders import in_process
from tests.serving.protocol.calls import INFER, assert_refuses, body

SHIRTS = "/v2/models/shirts"


async def test_the_configuration_is_in_tritons_terms() -> None:
    gateway = in_process(slots=2)
    async with gateway.client() as client:
        config = (await client.get(f"{SHIRTS}/config")).json()
        own = (await client.get(f"{SHIRTS}/versions/int8/config")).json()
    assert config["max_batch_size"] == 64
    assert config["input"] == [{"name": "pixels", "data_type": "TYPE_FP32", "dims": [4]}]
    assert config["output"] == [
        {"name": "logits", "data_type": "TYPE_FP32", "dims": [3]},
        {"name": "label", "data_type": "TYPE_INT64", "dims": []},
    ]
    group = {"kind": "KIND_CPU", "count": 2}
    assert config["instance_group"] == [{"name": "dense", **group}, {"name": "int8", **group}]
    assert own["instance_group"] == [{"name": "int8", **group}]


async def test_the_statistics_tell_what_was_answered() -> None:
    gateway = in_process()
    statistics = gateway.dataplane.statistics
    statistics.executed(Executed("dense", 3, input_s=0.001, compute_s=0.002, output_s=0.003))
    statistics.host_usage(HostUsage("dense", 1, 5_000, 700))
    async with gateway.client() as client:
        await client.post(INFER, json=body())
        await client.post(f"{SHIRTS}/versions/int8/infer", json=body(id="x"))
        refused = body(parameters={"variant": "int8", "slo_latency_ms": 0.001})
        assert_refuses(await client.post(INFER, json=refused), 422, "even when idle")
        answers = [
            (await client.get(path)).json()["model_stats"]
            for path in ("/v2/models/stats", f"{SHIRTS}/stats", f"{SHIRTS}/versions/dense/stats")
        ]
    every, of_model, of_dense = answers
    assert every == of_model
    assert of_dense == every[:1]
    dense, int8 = every
    assert (dense["name"], dense["version"], int8["version"]) == ("shirts", "dense", "int8")
    assert (dense["inference_count"], dense["execution_count"]) == (3, 1)
    assert dense["last_inference"] > 1.7e12, "milliseconds since 1970"
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
    stats = {name: own["inference_stats"] for name, own in (("dense", dense), ("int8", int8))}
    for own in stats.values():
        assert own["success"]["count"] == own["queue"]["count"] == 1
        parts = ("queue", "compute_input", "compute_infer", "compute_output")
        assert sum(own[part]["ns"] for part in parts) <= own["success"]["ns"]
        assert own["compute_infer"]["ns"] > 0
        assert own["cache_hit"] == own["cache_miss"] == {"count": 0, "ns": 0}
    assert stats["dense"]["fail"]["count"] == 0
    assert stats["int8"]["fail"]["count"] == 1
    assert stats["int8"]["fail"]["ns"] > 0


@pytest.mark.parametrize("content", [b"", b"{}", b'{"ready": false}', b'{"ready": true}'])
async def test_the_index_lists_the_variants(content: bytes) -> None:
    gateway = in_process()
    gateway.scheduler.set_slots("int8", 0)
    async with gateway.client() as client:
        index = (await client.post("/v2/repository/index", content=content)).json()
    ready = {"name": "shirts", "version": "dense", "state": "READY", "reason": ""}
    away = {
        "name": "shirts",
        "version": "int8",
        "state": "UNAVAILABLE",
        "reason": "no replica is alive",
    }
    assert index == ([ready] if b"true" in content else [ready, away])


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"ready": 1}', b'{"ready": null}', b"\xff"])
async def test_an_index_asked_for_wrongly_is_refused(content: bytes) -> None:
    async with in_process().client() as client:
        response = await client.post("/v2/repository/index", content=content)
    assert_refuses(response, 400, "the body ")


@pytest.mark.parametrize("verb", ["load", "unload"])
async def test_models_are_not_loaded_on_the_fly(verb: str) -> None:
    async with in_process().client() as client:
        response = await client.post(f"/v2/repository/models/shirts/{verb}", json={})
    assert_refuses(response, 501, "models cannot be loaded or unloaded through this API")


@pytest.mark.parametrize("what", ["", "/ready", "/config", "/stats"])
@pytest.mark.parametrize(
    ("path", "message"),
    [("/v2/models/hats", "no model 'hats'"), (f"{SHIRTS}/versions/int4", "no variant 'int4'")],
)
async def test_nothing_is_told_of_what_is_not_here(path: str, what: str, message: str) -> None:
    async with in_process().client() as client:
        assert_refuses(await client.get(path + what), 404, message)


async def test_every_document_raises_for_a_name_that_is_not_here() -> None:
    documents = in_process().documents
    for tell in (documents.model, documents.config, documents.statistics, documents.is_ready):
        with pytest.raises(ModelNotFound):
            tell("hats", None)
        with pytest.raises(ModelNotFound):
            tell("shirts", "int4")


async def test_a_head_request_is_a_get_without_a_body() -> None:
    async with in_process().client() as client:
        head = await client.head("/v2/health/live")
    assert head.status_code == 200
    assert head.headers["content-type"] == "application/json"


async def test_statistics_of_no_model_and_an_unknown_version_are_refused() -> None:
    with pytest.raises(ModelNotFound, match="no variant 'int4'"):
        in_process().documents.statistics(None, "int4")

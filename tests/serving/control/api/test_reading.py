"""What the admin API shows."""

from __future__ import annotations

import time

import httpx

from serving.control.state import ReplicaReport
from tests.serving.control.api.administered import READ_TOKEN, Administered
from tests.serving.protocol.calls import assert_error

ADMIN = "/v2/admin"


async def submit(client: httpx.AsyncClient, name: str = "tiny") -> str:
    body = {"name": name, "recipe": "named"}
    response = await client.post(f"{ADMIN}/variants", json=body)
    identifier: str = response.json()["id"]
    return identifier


def report(generation: int, error: str | None = None) -> ReplicaReport:
    return ReplicaReport(
        gateway="one",
        variant="int8",
        generation=generation,
        state="failed" if error else "routed",
        replicas=2,
        error=error,
        at=time.time(),
    )


async def test_the_list_has_state_card_replicas_and_the_job_in_progress(
    service: Administered, client: httpx.AsyncClient
) -> None:
    service.store.report("one", [report(1)])
    await client.post(f"{ADMIN}/variants/int8/replace", json={"recipe": "named"})
    variants = (await client.get(f"{ADMIN}/variants")).json()["variants"]
    assert [each["name"] for each in variants] == ["dense", "int8"]
    int8 = variants[1]
    assert (int8["state"], int8["published"], int8["error"]) == ("published", 1, None)
    assert int8["card"]["accuracy"] == 0.9
    assert int8["card"]["p50_s"] == 0.002
    assert [each["replicas"] for each in int8["replicas"]] == [2]
    assert int8["job"]["kind"] == "build"
    assert variants[0]["job"] is None


async def test_one_variant_has_the_whole_report_card(client: httpx.AsyncClient) -> None:
    variant = (await client.get(f"{ADMIN}/variants/int8")).json()
    assert variant["report_card"]["latencies"][0]["batch_size"] == 1
    assert_error(await client.get(f"{ADMIN}/variants/none"), 404, "there are dense, int8")


async def test_the_last_error_is_shown_until_a_later_generation_is_published(
    service: Administered, client: httpx.AsyncClient
) -> None:
    job = service.store.job(await submit(client))
    service.finish(job, verdict="fail")
    shown = (await client.get(f"{ADMIN}/variants/tiny")).json()
    assert shown["state"] == "rejected"
    assert "it loses 10 points" in shown["error"]
    service.finish(service.store.job(await submit(client)))
    assert (await client.get(f"{ADMIN}/variants/tiny")).json()["error"] is None
    service.store.set_error("tiny", 2, "its hosts do not start")
    shown = (await client.get(f"{ADMIN}/variants/tiny")).json()
    assert shown["error"] == "its hosts do not start"
    service.store.report("one", [report(1, error="model.onnx is damaged")])
    shown = (await client.get(f"{ADMIN}/variants/int8")).json()
    assert shown["error"] == "model.onnx is damaged"


async def test_a_variant_whose_files_are_damaged_is_shown_without_a_card(
    service: Administered, client: httpx.AsyncClient
) -> None:
    (service.catalog / ".generations/int8/1/variant.json").write_text("{")
    shown = (await client.get(f"{ADMIN}/variants/int8")).json()
    assert (shown["card"], shown["report_card"]) == (None, None)


async def test_jobs_and_their_logs(service: Administered, client: httpx.AsyncClient) -> None:
    first, second = await submit(client), await submit(client, "other")
    service.finish(service.store.job(first))
    jobs = (await client.get(f"{ADMIN}/jobs")).json()["jobs"]
    assert [job["id"] for job in jobs] == [second, first]
    active = (await client.get(f"{ADMIN}/jobs?active=true")).json()["jobs"]
    assert [job["id"] for job in active] == [second]
    assert len((await client.get(f"{ADMIN}/jobs?limit=1")).json()["jobs"]) == 1
    job = (await client.get(f"{ADMIN}/jobs/{first}")).json()
    assert (job["status"], job["stage"]) == ("succeeded", "published")
    log = (await client.get(f"{ADMIN}/jobs/{first}/log")).json()["lines"]
    assert [line["text"] for line in log] == ["quantized 2 layers", "measured"]
    log = (await client.get(f"{ADMIN}/jobs/{first}/log?after=1")).json()["lines"]
    assert [line["number"] for line in log] == [2]
    for path in ("", "/log", "/events"):
        assert_error(await client.get(f"{ADMIN}/jobs/none{path}"), 404, "no job 'none'")


async def test_the_history_states_who_did_what(
    service: Administered, client: httpx.AsyncClient
) -> None:
    await submit(client)
    entries = (await client.get(f"{ADMIN}/history?limit=1")).json()["entries"]
    assert [(each["actor"], each["action"], each["subject"]) for each in entries] == [
        ("ana", "add", "tiny")
    ]
    before = entries[0]["number"]
    older = (await client.get(f"{ADMIN}/history?before={before}")).json()["entries"]
    assert [each["action"] for each in older] == ["adopt", "adopt"]


async def test_a_token_for_reading_reads_and_changes_nothing(service: Administered) -> None:
    async with service.client(READ_TOKEN) as client:
        for path in ("variants", "variants/int8", "jobs", "history"):
            assert (await client.get(f"{ADMIN}/{path}")).status_code == 200
            assert (await client.head(f"{ADMIN}/{path}")).status_code == 200
        response = await client.delete(f"{ADMIN}/variants/int8")
        assert_error(response, 403, "dashboard may only read; this needs the scope admin")

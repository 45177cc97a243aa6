"""Adding, replacing, rolling back, publishing and removing over the admin API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.control.gate import describe
from serving.control.settings import Gate
from serving.control.state import Job
from tests.serving.control.api.administered import (
    DYNAMIC,
    INT8,
    Administered,
    administered,
    steps,
    write_variant,
)
from tests.serving.protocol.calls import assert_error
from variants.catalog import generations

VARIANTS = "/v2/admin/variants"


def accepted(response: httpx.Response) -> Job:
    """Return the job of a response; fail unless it was accepted."""
    assert response.status_code == 202, response.text
    job = Job.model_validate(response.json())
    assert response.headers["location"] == f"/v2/admin/jobs/{job.id}"
    return job


def published(service: Administered) -> dict[str, int | None]:
    return {each.name: each.published for each in service.store.variants()}


async def add(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post(VARIANTS, json={"name": "tiny", **body})


@pytest.mark.parametrize("recipe", [steps(DYNAMIC), "named"], ids=["steps", "a name"])
async def test_a_variant_is_added_from_a_recipe(
    service: Administered, client: httpx.AsyncClient, recipe: Any
) -> None:
    job = accepted(await add(client, recipe=recipe))
    assert (job.kind, job.variant, job.actor, job.status) == ("build", "tiny", "ana", "queued")
    assert job.recipe == (DYNAMIC if isinstance(recipe, list) else INT8)
    assert service.finish(job).status == "succeeded"
    assert published(service) == {"dense": 1, "int8": 1, "tiny": 1}


async def test_an_artifact_of_the_catalog_is_added_without_building(
    service: Administered, client: httpx.AsyncClient
) -> None:
    job = accepted(await client.post(VARIANTS, json={"name": "spare"}))
    assert (job.kind, job.generation, job.stage) == ("publish", 1, "warming")
    service.finish(job)
    assert published(service)["spare"] == 1


async def test_a_recipe_of_the_project_is_added_by_its_name(
    service: Administered, client: httpx.AsyncClient
) -> None:
    job = accepted(await client.post(VARIANTS, json={"name": "named"}))
    assert (job.kind, job.recipe) == ("build", INT8)


async def test_a_removed_variant_is_added_again_without_building(
    service: Administered, client: httpx.AsyncClient
) -> None:
    service.finish(accepted(await client.delete(f"{VARIANTS}/int8")))
    assert published(service)["int8"] is None
    job = accepted(await client.post(VARIANTS, json={"name": "int8"}))
    assert (job.kind, job.generation) == ("publish", 1)
    service.finish(job)
    assert published(service)["int8"] == 1


async def test_a_replacement_is_a_new_generation_and_a_rollback_returns_to_the_former_one(
    service: Administered, client: httpx.AsyncClient
) -> None:
    body = {"recipe": steps(DYNAMIC), "reason": "smaller"}
    job = accepted(await client.post(f"{VARIANTS}/int8/replace", json=body))
    assert job.reason == "smaller"
    service.finish(job)
    assert published(service)["int8"] == 2
    for number, named in ((1, {}), (2, {}), (1, {"generation": 1})):
        job = accepted(await client.post(f"{VARIANTS}/int8/rollback", json=named))
        assert (job.kind, job.generation) == ("publish", number)
        service.finish(job)
        assert published(service)["int8"] == number


async def test_a_replacement_without_a_recipe_takes_a_new_artifact_else_the_recipe_of_the_name(
    service: Administered, client: httpx.AsyncClient
) -> None:
    job = accepted(await client.post(f"{VARIANTS}/int8/replace"))
    assert (job.kind, job.recipe) == ("build", INT8)
    service.store.cancel(job.id, "ana")
    write_variant(service.catalog / "int8", "int8", INT8, "built again")
    job = accepted(await client.post(f"{VARIANTS}/int8/replace", json={}))
    assert job.kind == "publish"


async def test_a_damaged_artifact_is_refused_and_is_no_generation(
    service: Administered, client: httpx.AsyncClient
) -> None:
    folder = service.catalog / "spare"
    (folder / "model.onnx").write_bytes(b"damaged")
    response = await client.post(VARIANTS, json={"name": "spare"})
    assert_error(response, 409, "model.onnx is damaged")
    (folder / "variant.json").write_text("{}")
    response = await client.post(VARIANTS, json={"name": "spare"})
    assert_error(response, 409, "the artifact of spare cannot be read")
    assert "spare" not in published(service)


@pytest.mark.parametrize("damage", ["missing", "another size", "another content"])
@pytest.mark.parametrize("request_name", ["rollback", "publish", "add"])
async def test_a_generation_with_damaged_files_is_refused_at_once_and_the_file_is_named(
    service: Administered, client: httpx.AsyncClient, damage: str, request_name: str
) -> None:
    if request_name == "add":
        service.finish(accepted(await client.delete(f"{VARIANTS}/int8")))
    else:
        replacement = {"recipe": steps(DYNAMIC)}
        service.finish(accepted(await client.post(f"{VARIANTS}/int8/replace", json=replacement)))
    file = generations.folder(service.catalog, "int8", 1) / "model.onnx"
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(content[1:] + b"x" * (damage == "another content"))
    sent: dict[str, tuple[str, dict[str, object]]] = {
        "rollback": ("/int8/rollback", {}),
        "publish": ("/int8/publish", {"generation": 1, "reason": "x"}),
        "add": ("", {"name": "int8"}),
    }
    path, body = sent[request_name]
    response = await client.post(VARIANTS + path, json=body)
    assert_error(response, 409, "int8@1 cannot be published: ")
    assert str(file) in response.json()["error"]
    assert service.store.jobs(active_only=True) == ()


async def test_a_generation_that_the_gate_rejected_is_published_by_hand(
    service: Administered, client: httpx.AsyncClient
) -> None:
    job = service.finish(accepted(await add(client, recipe=steps(DYNAMIC))), verdict="fail")
    assert (job.status, published(service)["tiny"]) == ("rejected", None)
    body = {"generation": 1, "reason": "agreed"}
    service.finish(accepted(await client.post(f"{VARIANTS}/tiny/publish", json=body)))
    (generation,) = service.store.variant("tiny").generations
    assert generation.state == "published"
    assert generation.gate is not None
    assert (generation.gate.overridden_by, generation.gate.reason) == ("ana", "agreed")


async def test_a_forced_variant_is_published_whatever_the_gate_finds(
    service: Administered, client: httpx.AsyncClient
) -> None:
    assert_error(await add(client, recipe="named", force=True), 400, "force needs a reason")
    job = accepted(await add(client, recipe="named", force=True, reason="a test"))
    assert service.finish(job, verdict="fail").status == "succeeded"


async def test_a_dry_run_changes_nothing(service: Administered, client: httpx.AsyncClient) -> None:
    revision = service.store.revision()
    response = await add(client, recipe=steps(DYNAMIC), dry_run=True)
    assert response.status_code == 200
    document = response.json()
    assert (document["kind"], document["estimate_s"]) == ("build", None)
    assert document["estimated_memory_bytes"] > 0
    assert document["checks"] == list(describe(Gate()))
    response = await client.post(VARIANTS, json={"name": "spare", "dry_run": True})
    assert (response.status_code, response.json()["kind"]) == (200, "publish")
    assert_error(await add(client, recipe="none", dry_run=True), 404, "dense, named, int8")
    assert service.store.revision() == revision


async def test_a_repeated_request_with_the_same_key_returns_the_same_job(
    service: Administered, client: httpx.AsyncClient
) -> None:
    headers = {"Idempotency-Key": "one"}

    async def send(name: str = "tiny") -> httpx.Response:
        body = {"name": name, "recipe": "named"}
        return await client.post(VARIANTS, json=body, headers=headers)

    first = accepted(await send())
    assert accepted(await send()).id == first.id
    service.finish(first)
    assert accepted(await send()).id == first.id, "also once it is done"
    assert_error(await send("other"), 409, "the idempotency key was used for another request")
    removal = f"{VARIANTS}/tiny"
    response = await client.delete(removal, headers=headers)
    assert_error(response, 409, "the idempotency key was used for another request")
    job = accepted(await client.delete(removal, headers={"Idempotency-Key": "two"}))
    service.finish(job)
    assert accepted(await client.delete(removal, headers={"Idempotency-Key": "two"})).id == job.id


async def test_the_last_variant_that_meets_the_default_slo_needs_force(
    service: Administered, client: httpx.AsyncClient
) -> None:
    service.meeting.remove("dense")
    assert_error(await client.delete(f"{VARIANTS}/int8"), 409, "the last variant that meets")
    job = accepted(await client.delete(f"{VARIANTS}/int8?force=true&reason=broken"))
    assert (job.kind, job.reason) == ("remove", "broken")


async def test_a_variant_has_one_job_at_a_time(
    service: Administered, client: httpx.AsyncClient
) -> None:
    job = accepted(await add(client, recipe="named"))
    assert_error(await add(client, recipe="named"), 409, job.id)
    response = await client.post(f"/v2/admin/jobs/{job.id}/cancel")
    assert accepted(response).status == "cancelled"
    accepted(await add(client, recipe="named"))


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("", {"name": "int8"}, 409, "served already; replace it"),
        ("", {"name": "none"}, 404, "there are dense, int8, named, spare; or send a recipe"),
        ("", {"name": "tiny", "recipe": "none"}, 404, "it has dense, named, int8"),
        ("/none/replace", {"recipe": "named"}, 404, "there are dense, int8"),
        ("/none/rollback", {}, 404, "there are dense, int8"),
        ("/int8/rollback", {}, 409, "no former generation of int8"),
        ("/int8/rollback", {"generation": 7}, 404, "no generation 7"),
        ("/int8/rollback", {"generation": 1}, 409, "generation 1 of int8 is published"),
        ("/int8/publish", {"generation": 1, "reason": "x"}, 409, "is published"),
        ("/dense/replace", {"recipe": "named"}, 409, "dense is the model itself"),
    ],
)
async def test_what_contradicts_the_state_is_refused(
    client: httpx.AsyncClient, path: str, body: Any, status: int, message: str
) -> None:
    assert_error(await client.post(VARIANTS + path, json=body), status, message)


async def test_without_a_project_file_nothing_is_built(tmp_path: Path) -> None:
    async with administered(tmp_path, has_project=False) as service, service.client() as client:
        response = await add(client, recipe=steps(DYNAMIC))
        assert_error(response, 501, "paretoserve up --project")
        accepted(await client.post(VARIANTS, json={"name": "spare"}))
        assert_error(await client.post(VARIANTS, json={"name": "none"}), 404, "send a recipe")


async def test_a_dry_run_estimates_the_time_from_former_builds(
    service: Administered, client: httpx.AsyncClient
) -> None:
    service.finish(accepted(await add(client, recipe="named")))
    body = {"name": "other", "recipe": "named", "dry_run": True}
    estimate = (await client.post(VARIANTS, json=body)).json()
    assert estimate["estimate_s"] >= 0
    assert "time: former builds" in estimate["notes"]

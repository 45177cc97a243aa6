"""The repository extension with unmodified clients of tritonclient, over HTTP and gRPC."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from tests.serving.builders import pixels
from tests.serving.control.api.administered import (
    ADMIN_TOKEN,
    DYNAMIC,
    READ_TOKEN,
    Administered,
    administered,
    steps,
    write_variant,
)
from tests.serving.protocol.grpc.calls import listening as listening_grpc
from tests.serving.protocol.grpc.calls import protocol
from tests.serving.protocol.http.sockets import LOOPBACK, listening
from tests.waiting import GIVE_UP_S

CLIENTS: dict[str, ModuleType] = {
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
}


class Triton:
    """A client of tritonclient. Blocking ones are called on one thread, as gevent demands."""

    def __init__(self, raw: Any, thread: Executor, *, is_grpc: bool) -> None:
        self.raw = raw
        self.is_grpc = is_grpc
        self._thread = thread

    async def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        function = getattr(self.raw, method)
        if inspect.iscoroutinefunction(function):
            return await function(*arguments, **keywords)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(function, *arguments, **keywords))

    async def document(self, method: str) -> Any:
        """Return the result of a method as plain data."""
        return await self.call(method, **({"as_json": True} if self.is_grpc else {}))

    async def load(self, name: str, token: str = ADMIN_TOKEN, **keywords: Any) -> None:
        headers = {"authorization": f"Bearer {token}"}
        await self.call("load_model", name, headers=headers, **keywords)

    async def unload(self, name: str, token: str = ADMIN_TOKEN) -> None:
        await self.call("unload_model", name, headers={"authorization": f"Bearer {token}"})

    async def index(self) -> dict[str, tuple[str, str]]:
        """Return state and reason by variant."""
        index = await self.document("get_model_repository_index")
        models = index["models"] if self.is_grpc else index
        return {each["version"]: (each["state"], each.get("reason", "")) for each in models}


@asynccontextmanager
async def connected(service: Administered, name: str) -> AsyncIterator[Triton]:
    module = CLIENTS[name]
    async with (
        listening(service.gateway) as http,
        listening_grpc(protocol(service.gateway)) as grpc,
    ):
        is_grpc = name.startswith("grpc")
        address = f"{LOOPBACK}:{grpc.port if is_grpc else http.port}"
        with ThreadPoolExecutor(1) as thread:
            if name.endswith("aio"):
                raw = module.InferenceServerClient(address)
                yield Triton(raw, thread, is_grpc=is_grpc)
                await raw.close()
            else:
                raw = thread.submit(module.InferenceServerClient, address).result()
                yield Triton(raw, thread, is_grpc=is_grpc)
                thread.submit(raw.close).result()


@pytest.fixture(params=CLIENTS)
async def triton(request: pytest.FixtureRequest, service: Administered) -> AsyncIterator[Triton]:
    async with service.reconciling(), connected(service, request.param) as client:
        yield client


def published(service: Administered) -> dict[str, int | None]:
    return {each.name: each.published for each in service.store.variants()}


async def test_variants_are_listed_added_replaced_and_removed(
    service: Administered, triton: Triton
) -> None:
    assert "model_repository" in (await triton.document("get_server_metadata"))["extensions"]
    assert await triton.index() == {
        "dense": ("READY", ""),
        "int8": ("READY", ""),
        "spare": ("UNAVAILABLE", "it is in the catalog and not loaded"),
    }
    await triton.load("spare")
    assert published(service)["spare"] == 1
    await triton.load("tiny", config=json.dumps(steps(DYNAMIC)))
    assert published(service)["tiny"] == 1
    await triton.load("tiny", config=json.dumps({"recipe": steps(DYNAMIC)}))
    assert published(service)["tiny"] == 1, "it is served already"
    await triton.load("tiny", config=json.dumps("named"))
    assert published(service)["tiny"] == 2
    await triton.unload("tiny")
    assert published(service)["tiny"] is None
    await triton.unload("tiny")
    index = await triton.index()
    assert index["tiny"] == ("UNAVAILABLE", "it is not loaded: kept")
    await triton.load("tiny")
    assert published(service)["tiny"] == 2


async def test_a_new_artifact_of_a_served_variant_replaces_it(
    service: Administered, triton: Triton
) -> None:
    await triton.load("int8")
    assert published(service)["int8"] == 1, "nothing is new"
    write_variant(service.catalog / "int8", "int8", DYNAMIC, "built again")
    await triton.load("int8")
    assert published(service)["int8"] == 2


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("shirts", {}, "shirts is the model, which is always loaded"),
        ("none", {}, "there is no artifact, generation or recipe named 'none'"),
        ("../int8", {}, ""),
        ("tiny", {"config": "{"}, "`config` must be a recipe as JSON"),
        ("tiny", {"config": '{"backend": "onnxruntime"}'}, "`config` must be a recipe as JSON"),
        ("tiny", {"config": '[{"technique": "magic"}]'}, "unknown technique 'magic'"),
        ("tiny", {"config": '[{"module": "os"}]'}, "technique"),
        ("tiny", {"config": "[]", "files": {"file:1/model.onnx": b"x"}}, ""),
        ("tiny", {"token": READ_TOKEN}, "may only read"),
        ("tiny", {"token": "guessed"}, "the token is not known"),
    ],
)
async def test_loading_fails_with_a_reason(
    triton: Triton, name: str, keywords: Any, message: str
) -> None:
    with pytest.raises((InferenceServerException, TypeError)) as caught:
        await triton.load(name, **keywords)
    if isinstance(caught.value, InferenceServerException):
        assert message in caught.value.message()


@pytest.mark.parametrize(
    ("name", "message"),
    [("shirts", "shirts is the model"), ("none", "there are dense, int8"), ("../int8", "")],
)
async def test_unloading_fails_with_a_reason(triton: Triton, name: str, message: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        await triton.unload(name)
    assert message in caught.value.message()


@pytest.mark.parametrize("verb", ["load", "unload"])
async def test_a_body_is_not_read_without_a_token(service: Administered, verb: str) -> None:
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(1)
        yield b"{"

    async with service.client(token=None) as client:
        response = await client.post(f"/v2/repository/models/tiny/{verb}", content=body())
    assert (response.status_code, read) == (401, [])


@pytest.mark.parametrize("name", ["http.aio", "grpc.aio"])
async def test_a_build_that_fails_tells_every_caller_why(service: Administered, name: str) -> None:
    async with connected(service, name) as triton:
        config = json.dumps(steps(DYNAMIC))
        calls = [asyncio.create_task(triton.load("tiny", config=config)) for _ in range(2)]
        while not all(call.done() for call in calls):
            # A call that arrives after the job has failed submits another one.
            for job in service.store.jobs(active_only=True):
                service.store.start_job(job.id)
                service.store.fail(job.id, "out of memory")
            await asyncio.sleep(0.01)
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, InferenceServerException)
            assert "out of memory" in outcome.message()


@pytest.mark.parametrize("name", CLIENTS)
async def test_inference_needs_a_token_if_it_is_not_open(tmp_path: Path, name: str) -> None:
    async with (
        administered(tmp_path, is_inference_open=False) as service,
        connected(service, name) as triton,
    ):
        module = tritonclient.grpc if name.startswith("grpc") else tritonclient.http
        tensor = module.InferInput("pixels", [1, 4], "FP32")
        tensor.set_data_from_numpy(pixels())
        with pytest.raises(InferenceServerException) as caught:
            await triton.call("infer", "shirts", [tensor])
        assert "needs a token" in caught.value.message()
        headers = {"authorization": f"Bearer {READ_TOKEN}"}
        assert await triton.call("infer", "shirts", [tensor], headers=headers)


async def test_the_index_reads_the_state_once_for_many_callers(
    service: Administered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.control.api.repository.UNLOADED_MAX_AGE_S", GIVE_UP_S)
    repository = service.administration.control.repository
    first = await asyncio.gather(*(repository.unloaded() for _ in range(100)))
    assert len({id(each) for each in first}) == 1
    monkeypatch.setattr("serving.control.api.repository.UNLOADED_MAX_AGE_S", -1.0)
    assert await repository.unloaded() is not first[0]

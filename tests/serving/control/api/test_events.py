"""A job as server-sent events, over a real listener."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from serving.control.api import events
from tests.serving.control.api.administered import ADMIN_TOKEN, Administered, authorization
from tests.serving.protocol.http.sockets import LOOPBACK, listening
from tests.waiting import GIVE_UP_S

Event = tuple[str, str, dict[str, Any]]


@asynccontextmanager
async def connected(service: Administered) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        listening(service.gateway) as listener,
        httpx.AsyncClient(
            base_url=f"http://{LOOPBACK}:{listener.port}",
            headers=authorization(ADMIN_TOKEN),
            timeout=GIVE_UP_S,
            verify=False,
        ) as client,
    ):
        yield client


async def submit(client: httpx.AsyncClient) -> str:
    body = {"name": "tiny", "recipe": "named"}
    identifier: str = (await client.post("/v2/admin/variants", json=body)).json()["id"]
    return identifier


async def read(response: httpx.Response) -> AsyncIterator[Event]:
    """Parse a stream of events, as the standard says."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if not line:
            if "data" in fields:
                yield fields["event"], fields["id"], json.loads(fields["data"])
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")


async def test_the_stream_has_the_job_its_log_and_ends_with_it(service: Administered) -> None:
    async with connected(service) as client:
        job = await submit(client)
        seen: list[Event] = []
        async with client.stream("GET", f"/v2/admin/jobs/{job}/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            async for event in read(response):
                if not seen:
                    service.finish(service.store.job(job))
                seen.append(event)
    assert (seen[0][0], seen[0][2]["status"]) == ("job", "queued")
    assert seen[-1][2]["status"] == "succeeded"
    logged = [(event[1], event[2]["text"]) for event in seen if event[0] == "log"]
    assert logged == [("1", "quantized 2 layers"), ("2", "measured")]


async def test_a_client_that_connects_again_gets_the_lines_that_it_missed(
    service: Administered,
) -> None:
    async with connected(service) as client:
        job = await submit(client)
        service.finish(service.store.job(job))
        path, headers = f"/v2/admin/jobs/{job}/events", {"Last-Event-ID": "1"}
        async with client.stream("GET", path, headers=headers) as response:
            seen = [event async for event in read(response)]
    assert [event[2]["text"] for event in seen if event[0] == "log"] == ["measured"]


async def test_open_streams_are_limited_and_end_when_the_gateway_stops(
    service: Administered,
) -> None:
    async with connected(service) as client:
        job = await submit(client)
        path = f"/v2/admin/jobs/{job}/events"
        request = client.build_request("GET", path)
        open_streams = [await client.send(request, stream=True) for _ in range(events.MAX_STREAMS)]
        assert (await client.get(path)).status_code == 429
        await open_streams.pop().aclose()
        while (response := await client.send(request, stream=True)).status_code == 429:
            await response.aclose()
            await asyncio.sleep(0.01)
        open_streams.append(response)
        service.administration.stop()
        for stream in open_streams:
            await stream.aread()

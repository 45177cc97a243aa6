"""Clients that send random requests in random pieces: no response is lost, doubled or displaced.

Each request has a tag, which its response repeats. The choices follow from a seed.
"""

from __future__ import annotations

import asyncio
import re
from random import Random

import httptools
import orjson
import pytest

from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import INFER, body
from tests.serving.protocol.door import Door
from tests.serving.protocol.http.sockets import HANG_S, RawClient, listening
from tests.waiting import until

CONNECTIONS = 12
MAX_REQUESTS = 40
TAG = re.compile(rb"tag-\d+")


class Responses:
    """Parses the responses on a connection."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self.tags: list[bytes] = []
        self.statuses: list[int] = []

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() == 100:
            return
        self.statuses.append(self._parser.get_status_code())
        self.tags += TAG.findall(self._body)[:1]


def with_body(random: Random, start: str, content: bytes) -> bytes:
    """Return a request with this body, whole or in chunks."""
    head = f"{start} HTTP/1.1\r\nHost: x\r\n"
    if random.random() < 0.2:
        head += "Expect: 100-continue\r\n"
    if random.random() < 0.5:
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
    message = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode()
    while content:
        size = random.randint(1, len(content))
        message += b"%x\r\n%b\r\n" % (size, content[:size])
        content = content[size:]
    return message + b"0\r\n\r\n"


def valid(random: Random, tag: str) -> bytes:
    document = body(pixels(random.randint(1, 8)), id=tag)
    padding = random.choice([0, 0, 0, 100_000])
    return with_body(random, f"POST {INFER}", orjson.dumps(document).ljust(padding))


def wrong(random: Random, tag: str) -> bytes:
    document = body(id=tag)
    document["inputs"][0]["shape"] = [2, 4]
    return with_body(random, f"POST {INFER}", orjson.dumps(document))


def unknown(random: Random, tag: str) -> bytes:
    return f"GET /{tag} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


KINDS = {valid: 200, wrong: 400, unknown: 404}
"""The requests, and the status of each."""


async def send_in_random_pieces(random: Random, raw: RawClient, message: bytes) -> None:
    while message:
        size = random.choice([1, 20, 500, 70_000])
        await raw.send(message[:size])
        message = message[size:]
        if random.random() < 0.1:
            await asyncio.sleep(0)


async def read_all(raw: RawClient, responses: Responses) -> None:
    while data := await raw.read_some():
        responses.feed(data)


async def run_client(random: Random, port: int) -> None:
    """Send requests, and check their responses if the client stays to the end."""
    kinds = random.choices(list(KINDS), [4, 1, 1], k=random.randint(1, MAX_REQUESTS))
    tags = [f"tag-{number}" for number in range(len(kinds))]
    message = b"".join(kind(random, tag) for kind, tag in zip(kinds, tags, strict=True))
    raw, responses = RawClient(port), Responses()
    leaves_early = random.random() < 0.25
    if leaves_early:
        await send_in_random_pieces(random, raw, message[: random.randrange(len(message))])
        random.choice([RawClient.close, RawClient.reset])(raw)
        return
    message += random.choice([b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"\0"])
    reading = asyncio.create_task(read_all(raw, responses))
    await send_in_random_pieces(random, raw, message)
    await reading
    raw.close()
    assert responses.tags == [tag.encode() for tag in tags]
    assert responses.statuses[:-1] == [KINDS[kind] for kind in kinds]
    assert responses.statuses[-1] == (400 if message.endswith(b"\0") else 200)


@pytest.mark.parametrize("seed", range(8))
async def test_each_request_gets_its_response_in_order(seed: int) -> None:
    random, door = Random(seed), Door(limit=1_000_000)
    async with listening(in_process(max_queue=10_000), front_door=door.door) as listener:
        async with asyncio.timeout(HANG_S):
            clients = (
                run_client(Random(random.random()), listener.port) for _ in range(CONNECTIONS)
            )
            await asyncio.gather(*clients)
        await until(lambda: not listener.connections)
        assert (door.shedder.inside, door.door.bodies.held) == (0, 0)

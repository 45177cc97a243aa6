from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator, Callable

import httpx
import numpy as np
import orjson
import pytest

from tests.serving.builders import answers, in_process, pixels
from tests.serving.protocol.calls import INFER, assert_answers, assert_error, body

CODINGS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
LENGTH = "inference-header-content-length"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(max_body_bytes=10_000).client() as client:
        client.headers["accept-encoding"] = "identity"
        yield client


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_compressed_request_is_answered(client: httpx.AsyncClient, coding: str) -> None:
    content = CODINGS[coding](orjson.dumps(body(pixels(2))))
    response = await client.post(INFER, content=content, headers={"content-encoding": coding})
    assert_answers(response, "dense", pixels(2))


@pytest.mark.parametrize("coding", CODINGS)
async def test_the_json_length_is_the_length_before_compression(
    client: httpx.AsyncClient, coding: str
) -> None:
    tensor = {
        "name": "pixels",
        "datatype": "FP32",
        "shape": [2, 4],
        "parameters": {"binary_data_size": 32},
    }
    head = orjson.dumps({"inputs": [tensor]})
    headers = {"content-encoding": coding, LENGTH: str(len(head))}
    content = CODINGS[coding](head + pixels(2).tobytes())
    assert_answers(await client.post(INFER, content=content, headers=headers), "dense", pixels(2))


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_long_response_is_compressed_if_the_client_accepts_it(
    client: httpx.AsyncClient, coding: str
) -> None:
    array = pixels(64)
    for parameters in ({}, {"binary_data_output": True}):
        response = await client.post(
            INFER,
            json=body(array, parameters=parameters),
            headers={"accept-encoding": coding},
        )
        assert response.headers["content-encoding"] == coding
        assert response.headers["vary"] == "accept-encoding"
        assert int(response.headers["content-length"]) < len(response.content)
    head_length = int(response.headers[LENGTH])
    document = orjson.loads(response.content[:head_length])
    assert [output["name"] for output in document["outputs"]] == ["logits", "label"]
    logits = answers("dense", {"pixels": array})["logits"]
    raw = np.frombuffer(response.content, np.float32, logits.size, head_length)
    np.testing.assert_array_equal(raw.reshape(logits.shape), logits)


async def test_short_responses_and_those_without_accept_encoding_are_not_compressed(
    client: httpx.AsyncClient,
) -> None:
    short = await client.post(INFER, json=body(), headers={"accept-encoding": "gzip"})
    long = await client.post(INFER, json=body(pixels(64)))
    for response in (short, long):
        assert "content-encoding" not in response.headers


async def test_a_body_over_the_limit_after_decompression_is_rejected(
    client: httpx.AsyncClient,
) -> None:
    content = gzip.compress(b" " * 1_000_000)
    response = await client.post(INFER, content=content, headers={"content-encoding": "gzip"})
    assert_error(response, 413, "the decompressed body is larger than 10000 bytes")
    assert_answers(await client.post(INFER, json=body()), "dense", pixels())


async def test_only_inference_responses_are_compressed(
    client: httpx.AsyncClient,
) -> None:
    headers = {"accept-encoding": "gzip"}
    for path in ("/openapi.json", "/metrics"):
        response = await client.get(path, headers=headers)
        assert len(response.content) > 1024
        assert "content-encoding" not in response.headers
    response = await client.post(
        INFER, json=body(parameters={"variant": "x" * 2_000}), headers=headers
    )
    assert_error(response, 404, "there is no variant 'xxx")
    assert "content-encoding" not in response.headers

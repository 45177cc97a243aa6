"""Features of tritonclient's HTTP clients only: JSON tensors, compression, concurrent requests."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

from tests.conformance.cases import MODEL
from tests.conformance.triton import HTTP, Client
from tests.service import RunningService, images

pytestmark = pytest.mark.cluster

both = pytest.mark.parametrize("client", ["http", "http.aio"], indirect=True)

ENCODINGS = [None, "gzip", "deflate"]
NAMES = {True: "binary", False: "JSON"}


@both
@pytest.mark.parametrize(
    ("binary_in", "binary_out"),
    [
        pytest.param(
            *formats, id=" in, ".join("binary" if each else "JSON" for each in formats) + " out"
        )
        for formats in product([True, False], repeat=2)
    ],
)
@pytest.mark.parametrize("request_coding", ENCODINGS)
@pytest.mark.parametrize("response_coding", ENCODINGS)
async def test_tensors_can_be_sent_and_returned_in_every_format(
    service: RunningService,
    client: Client,
    binary_in: bool,
    binary_out: bool,
    request_coding: str | None,
    response_coding: str | None,
) -> None:
    pixels = images(20)
    answer = await client.infer(
        MODEL,
        client.input(pixels, binary_data=binary_in),
        model_version="int8",
        outputs=[HTTP.InferRequestedOutput("logits", binary_data=binary_out)],
        request_compression_algorithm=request_coding,
        response_compression_algorithm=response_coding,
    )
    service.check("int8", pixels, answer.logits)


@both
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("request_coding", ENCODINGS)
async def test_a_client_that_compresses_gets_errors(
    client: Client, binary_in: bool, request_coding: str | None
) -> None:
    with pytest.raises(InferenceServerException, match="shape") as caught:
        await client.infer(
            MODEL,
            client.input(images(3)[:, :9].copy(), binary_data=binary_in),
            request_compression_algorithm=request_coding,
            response_compression_algorithm=request_coding,
        )
    assert caught.value.status() == "400"


@pytest.mark.usefixtures("unread_bodies")
@both
async def test_an_unknown_model_is_not_ready(client: Client) -> None:
    assert await client.call("is_model_ready", "other") is False
    assert await client.call("is_model_ready", MODEL, "nine") is False


def test_concurrent_requests_get_their_own_responses(service: RunningService) -> None:
    with HTTP.InferenceServerClient(f"127.0.0.1:{service.port}", concurrency=8) as raw:
        client = Client(HTTP, raw)
        batches = [images(1, seed) for seed in range(32)]
        requests: list[Any] = [
            raw.async_infer(
                MODEL, [client.input(pixels)], model_version="dense", request_id=str(number)
            )
            for number, pixels in enumerate(batches)
        ]
        for number, (pixels, request) in enumerate(zip(batches, requests, strict=True)):
            answer = client.answer(request.get_result())
            assert answer.id == str(number)
            service.check("dense", pixels, answer.logits)

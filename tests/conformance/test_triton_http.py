"""What only tritonclient's HTTP clients can do: JSON tensors, compression, requests in flight."""

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


@both
@pytest.mark.parametrize(
    ("binary_in", "binary_out"),
    [
        pytest.param(*ways, id=" in, ".join("binary" if way else "JSON" for way in ways) + " out")
        for ways in product([True, False], repeat=2)
    ],
)
@pytest.mark.parametrize("sent", ENCODINGS)
@pytest.mark.parametrize("wanted", ENCODINGS)
async def test_tensors_travel_as_the_client_likes(
    service: RunningService,
    client: Client,
    binary_in: bool,
    binary_out: bool,
    sent: str | None,
    wanted: str | None,
) -> None:
    pixels = images(20)
    answer = await client.infer(
        MODEL,
        client.input(pixels, binary_data=binary_in),
        model_version="int8",
        outputs=[HTTP.InferRequestedOutput("logits", binary_data=binary_out)],
        request_compression_algorithm=sent,
        response_compression_algorithm=wanted,
    )
    service.check("int8", pixels, answer.logits)


@both
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("sent", ENCODINGS)
async def test_a_refusal_reaches_a_client_that_compresses(
    client: Client, binary_in: bool, sent: str | None
) -> None:
    with pytest.raises(InferenceServerException, match="shape") as caught:
        await client.infer(
            MODEL,
            client.input(images(3)[:, :9].copy(), binary_data=binary_in),
            request_compression_algorithm=sent,
            response_compression_algorithm=sent,
        )
    assert caught.value.status() == "400"


@pytest.mark.usefixtures("unread_bodies")
@both
async def test_a_model_that_is_not_here_is_not_ready(client: Client) -> None:
    assert await client.ask("is_model_ready", "other") is False
    assert await client.ask("is_model_ready", MODEL, "nine") is False


def test_many_requests_are_in_flight_and_each_gets_its_own_answer(service: RunningService) -> None:
    with HTTP.InferenceServerClient(f"127.0.0.1:{service.port}", concurrency=8) as raw:
        client = Client(HTTP, raw)
        batches = [images(1, seed) for seed in range(32)]
        flying: list[Any] = [
            raw.async_infer(
                MODEL, [client.input(pixels)], model_version="dense", request_id=str(number)
            )
            for number, pixels in enumerate(batches)
        ]
        for number, (pixels, request) in enumerate(zip(batches, flying, strict=True)):
            answer = client.answer(request.get_result())
            assert answer.id == str(number)
            service.check("dense", pixels, answer.logits)

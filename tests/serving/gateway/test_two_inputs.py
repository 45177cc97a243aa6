"""A model with two inputs, one of variable length, over both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from serving.gateway.gateway import Gateway
from tests.serving.gateway.running_gateway import running_gateway
from tests.serving.gateway.two_inputs import Arrays, answers, inputs
from tests.serving.gateway.two_inputs_client import Client, assert_close


@pytest.fixture
async def gateway(two_inputs_catalog: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(two_inputs_catalog) as gateway:
        yield gateway


@pytest.fixture(params=["http", "grpc"])
async def client(request: pytest.FixtureRequest, gateway: Gateway) -> AsyncIterator[Client]:
    async with Client(request.param, gateway) as client:
        yield client


@pytest.mark.parametrize("variant", ["dense", "coarse"])
@pytest.mark.parametrize(("samples", "length"), [(1, 1), (3, 7), (8, 300), (2, 0)])
async def test_every_length_is_answered(
    client: Client, variant: str, samples: int, length: int
) -> None:
    arrays = inputs(samples, length)
    assert_close(await client.infer(arrays, variant), answers(variant, arrays))


async def test_concurrent_requests_of_many_lengths_are_not_mixed_up(client: Client) -> None:
    requests = [inputs(1 + seed % 3, 1 + seed % 5, seed) for seed in range(60)]
    results = await asyncio.gather(*(client.infer(request) for request in requests))
    for outputs, request in zip(results, requests, strict=True):
        assert_close(outputs, answers("dense", request))


async def test_the_order_of_the_inputs_does_not_matter(client: Client) -> None:
    arrays = inputs(2, 4)
    reordered = dict(reversed(arrays.items()))
    assert_close(await client.infer(reordered), answers("dense", arrays))


async def test_only_the_requested_outputs_are_returned(client: Client) -> None:
    arrays = inputs(2, 4)
    outputs = await client.infer(arrays, outputs=("each",))
    assert_close(outputs, {"each": answers("dense", arrays)["each"]})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"tokens": inputs(2, 4)["tokens"]}, "the model takes the inputs tokens, scale"),
        (inputs(2, 4) | {"scale": np.ones((3, 3), np.float32)}, "the same size in their first"),
        (inputs(2, 4) | {"scale": np.ones((2, 4), np.float32)}, r"must have shape \[-1, 3\]"),
    ],
    ids=["one input missing", "unequal batches", "a fixed dimension"],
)
async def test_inputs_that_do_not_fit_the_model_are_refused(
    client: Client, arrays: Arrays, message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message):
        await client.infer(arrays)


async def test_dimensions_of_variable_size_are_minus_one_in_the_metadata(gateway: Gateway) -> None:
    async with Client("http", gateway) as client:
        metadata = await client.triton.get_model_metadata("words")
        config = await client.triton.get_model_config("words")
    assert [each["shape"] for each in metadata["inputs"]] == [[-1, -1], [-1, 3]]
    assert [each["dims"] for each in config["output"]] == [[3], [-1]]

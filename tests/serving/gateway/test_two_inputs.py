"""Nothing between a client and a host assumes one tensor of one shape."""

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
    given = inputs(samples, length)
    assert_close(await client.infer(given, variant), answers(variant, given))


async def test_many_lengths_at_once_and_no_answer_is_anothers(client: Client) -> None:
    given = [inputs(1 + seed % 3, 1 + seed % 5, seed) for seed in range(60)]
    found = await asyncio.gather(*(client.infer(one) for one in given))
    for own, one in zip(found, given, strict=True):
        assert_close(own, answers("dense", one))


async def test_the_order_of_the_inputs_does_not_matter(client: Client) -> None:
    given = inputs(2, 4)
    turned = dict(reversed(given.items()))
    assert_close(await client.infer(turned), answers("dense", given))


async def test_only_the_outputs_asked_for_come_back(client: Client) -> None:
    given = inputs(2, 4)
    found = await client.infer(given, outputs=("each",))
    assert_close(found, {"each": answers("dense", given)["each"]})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tokens": inputs(2, 4)["tokens"]}, "the model takes the inputs tokens, scale"),
        (inputs(2, 4) | {"scale": np.ones((3, 3), np.float32)}, "the same size in their first"),
        (inputs(2, 4) | {"scale": np.ones((2, 4), np.float32)}, r"must have shape \[-1, 3\]"),
    ],
    ids=["one input missing", "unequal batches", "a fixed dimension"],
)
async def test_inputs_that_do_not_fit_the_model_are_refused(
    client: Client, wrong: Arrays, message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message):
        await client.infer(wrong)


async def test_the_metadata_shows_which_dimensions_vary(gateway: Gateway) -> None:
    async with Client("http", gateway) as client:
        metadata = await client.triton.get_model_metadata("words")
        config = await client.triton.get_model_config("words")
    assert [own["shape"] for own in metadata["inputs"]] == [[-1, -1], [-1, 3]]
    assert [own["dims"] for own in config["output"]] == [[3], [-1]]

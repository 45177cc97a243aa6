"""Nothing between a client and a host assumes one tensor of one shape."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as triton_grpc
import tritonclient.http.aio as triton_http
from tritonclient.utils import InferenceServerException

from serving.cluster.assembly import Assembly
from tests.serving import two_inputs
from tests.serving.assembled import assembled
from tests.serving.two_inputs import Arrays, answers, inputs

DATATYPES = {"tokens": "INT64", "scale": "FP32"}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_inputs.write_catalog(tmp_path_factory.mktemp("two") / "catalog")


@pytest.fixture
async def gateway(catalog: Path) -> AsyncIterator[Assembly]:
    async with assembled(catalog) as gateway:
        yield gateway


@pytest.fixture(params=["http", "grpc"])
async def client(request: pytest.FixtureRequest, gateway: Assembly) -> AsyncIterator[Client]:
    async with Client(request.param, gateway) as client:
        yield client


class Client:
    """One of tritonclient's, and its tensors."""

    def __init__(self, transport: str, gateway: Assembly) -> None:
        port = gateway.http_port if transport == "http" else gateway.grpc_port
        self._module = triton_http if transport == "http" else triton_grpc
        self.triton = self._module.InferenceServerClient(f"127.0.0.1:{port}")

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.triton.close()

    async def infer(
        self, given: Arrays, variant: str = "", outputs: tuple[str, ...] = ("sums", "each")
    ) -> Arrays:
        tensors = []
        for name, array in given.items():
            tensors.append(self._module.InferInput(name, list(array.shape), DATATYPES[name]))
            tensors[-1].set_data_from_numpy(array)
        wanted = [self._module.InferRequestedOutput(name) for name in outputs]
        result = await self.triton.infer(
            "words", tensors, model_version=variant, outputs=wanted
        )
        return {name: result.as_numpy(name) for name in outputs}


def assert_close(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5)


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


async def test_a_request_that_the_model_fails_at_fails_alone(client: Client) -> None:
    given = [inputs(1, 4, seed) for seed in range(40)]
    beyond = {**given[0], "tokens": given[0]["tokens"] + two_inputs.TOKENS}
    asked = [client.infer(one) for one in [*given[:20], beyond, *given[20:]]]
    found = await asyncio.gather(*asked, return_exceptions=True)
    failed = found.pop(20)
    assert isinstance(failed, InferenceServerException)
    assert "inference failed; the cause was logged" in str(failed)
    for own, one in zip(found, given, strict=True):
        assert not isinstance(own, BaseException)
        assert_close(own, answers("dense", one))


async def test_the_metadata_shows_which_dimensions_vary(gateway: Assembly) -> None:
    async with Client("http", gateway) as client:
        metadata = await client.triton.get_model_metadata("words")
        config = await client.triton.get_model_config("words")
    assert [own["shape"] for own in metadata["inputs"]] == [[-1, -1], [-1, 3]]
    assert [own["dims"] for own in config["output"]] == [[3], [-1]]

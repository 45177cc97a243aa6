"""A transformer with two inputs of variable length, from its Python module to a client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc.aio as triton_grpc
import tritonclient.http.aio as triton_http
import yaml
from numpy.typing import NDArray

from serving.gateway.gateway import Gateway
from tests.examples import small_minilm
from tests.serving.gateway.running_gateway import running_gateway
from tests.small import measure_lightly, quiet
from variants.build.build import build
from variants.catalog.catalog import Catalog
from variants.model.loading import load_model

NAME = "small-minilm"
TEXTS = ["who was the king?", "when is the war", "where was the city of kings and the river?"]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, onnx_operators: None) -> Path:
    folder = tmp_path_factory.mktemp("minilm")
    project = {
        "name": NAME,
        "model": "tests.examples.small_minilm",
        "recipes": {
            "dense": [],
            "int8": [{"technique": "int8", "parameters": {"samples": 64}}],
        },
    }
    (folder / "recipes.yaml").write_text(yaml.safe_dump(project))
    build(folder / "recipes.yaml", folder / "catalog", progress=quiet(), measure=measure_lightly)
    return folder / "catalog"


@pytest.fixture
async def gateway(catalog: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(catalog) as gateway:
        yield gateway


async def _infer(
    gateway: Gateway, transport: str, texts: list[str], variant: str
) -> NDArray[np.float32]:
    module = triton_grpc if transport == "grpc" else triton_http
    port = gateway.grpc_port if transport == "grpc" else gateway.http_port
    inputs = []
    for name, array in small_minilm.TOKENIZER.encode(texts, small_minilm.LONGEST).items():
        inputs.append(module.InferInput(name, list(array.shape), "INT64"))
        inputs[-1].set_data_from_numpy(array)
    async with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
        response = await client.infer(NAME, inputs, model_version=variant)
    logits: NDArray[np.float32] = response.as_numpy("logits")
    return logits


def test_both_variants_are_built_and_accurate(catalog: Path) -> None:
    built = Catalog.load(catalog)
    assert [(spec.name, spec.datatype, spec.shape) for spec in built.model.inputs] == [
        ("input_ids", "INT64", (-1, -1)),
        ("attention_mask", "INT64", (-1, -1)),
    ]
    assert [spec.shape for spec in built.model.outputs] == [(-1, 3)]
    assert {name: v.runner for name, v in built.variants.items()} == {
        "dense": "onnx",
        "int8": "onnx",
    }
    for variant in built.variants.values():
        assert variant.report_cards[0].accuracy.value > 0.95


@pytest.mark.parametrize("transport", ["http", "grpc"])
@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS], ids=["6 tokens", "12 tokens"])
async def test_both_variants_answer_questions_of_any_length(
    gateway: Gateway, transport: str, texts: list[str]
) -> None:
    network = load_model("tests.examples.small_minilm").network
    inputs = small_minilm.TOKENIZER.encode(texts, small_minilm.LONGEST)
    with torch.inference_mode():
        expected = network(*map(torch.from_numpy, inputs.values())).numpy()
    dense = await _infer(gateway, transport, texts, "dense")
    np.testing.assert_allclose(dense, expected, rtol=1e-3, atol=1e-4)
    int8 = await _infer(gateway, transport, texts, "int8")
    classes = [small_minilm.QUESTION_WORDS.index(text.split()[0]) for text in texts]
    assert int8.argmax(axis=1).tolist() == dense.argmax(axis=1).tolist() == classes
    assert not np.array_equal(int8, dense)

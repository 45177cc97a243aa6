"""Techniques on torch's own transformer encoder, whose fast path bypasses its layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.small import quiet
from tests.variants import tiny_torch_encoder as encoder
from variants.build.runtime_choice import choose_runtime
from variants.catalog.recipe import Step
from variants.compression.export import export_state
from variants.compression.techniques import resolve
from variants.model.forward import all_scores
from variants.model.state import CompressionState
from variants.runtime.onnx import OnnxRunner

SAMPLES = encoder.split(40, 3).samples


@pytest.fixture(autouse=True)
def _fast_path_is_restored() -> Iterator[None]:
    assert torch.backends.mha.get_fastpath_enabled()
    yield
    assert torch.backends.mha.get_fastpath_enabled()


def _apply(technique: str, **parameters: Any) -> CompressionState:
    step = Step(technique=technique, parameters=parameters)
    return resolve(step).apply(encoder.state(), encoder.datasets().training_data, quiet())


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt", "activation", "taylor", "gradient"])
def test_weights_are_masked_by_observed_inputs(criterion: str) -> None:
    result = _apply("unstructured", share=0.5, criterion=criterion)
    assert result.masks.keys() >= {
        "encoder.layers.0.linear1.weight", "encoder.layers.0.linear2.weight", "head.weight"
    }  # fmt: skip
    unseen = [n for n in result.notes if "out_proj" in n and "inputs cannot be observed" in n]
    assert bool(unseen) == (criterion in ("wanda", "sparsegpt", "activation"))


@pytest.mark.parametrize(
    ("technique", "parameters"),
    [
        ("sparse-n:m", {"criterion": "activation", "min_rows": 1}),
        ("sparse-n:m", {"criterion": "sparsegpt", "min_rows": 1}),
        ("low-rank", {"break_even": 0.5, "whiten": True}),
        ("activation-pruning", {"share": 0.1}),
        ("structured", {"share": 0.1, "criterion": "activation"}),
        ("structured", {"share": 0.1, "criterion": "taylor"}),
        ("smoothquant", {}),
        ("recover", {"epochs": 1, "distill": 0.5}),
    ],
)
def test_the_exported_network_answers_as_torch_does(
    technique: str, parameters: dict[str, Any]
) -> None:
    result = _apply(technique, **parameters)
    graph = export_state(result, SAMPLES).SerializeToString()
    expected = all_scores(result.network, SAMPLES).numpy()
    actual = OnnxRunner(graph, threads=1)(SAMPLES)["logits"]
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_it_is_quantized(mode: str) -> None:
    result = _apply("int8", mode=mode)
    assert result.graph is not None
    answers = OnnxRunner(result.graph, threads=1)(SAMPLES)["logits"]
    expected = all_scores(encoder.network(), SAMPLES).numpy()
    assert np.abs(answers - expected).max() < 0.2 * np.abs(expected).max()


def test_packed_layers_are_computed_by_kernels() -> None:
    result = _apply("sparse-n:m", min_rows=1, packing="always")
    served = choose_runtime(result, SAMPLES, threads=1)
    assert "encoder.layers.0.linear1" in served.packed
    assert "layer encoder.layers.0.self_attn.out_proj stays dense" in " ".join(served.notes)


def test_padding_does_not_change_the_answers() -> None:
    network, few = encoder.network(), encoder.split(1).samples
    padded = {n: np.pad(array, ((0, 0), (0, 3))) for n, array in few.items()}
    np.testing.assert_allclose(
        all_scores(network, padded).numpy(), all_scores(network, few).numpy(), atol=1e-5
    )

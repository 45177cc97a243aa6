"""Techniques on networks of unusual structure: they support it, or the error states why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.small import quiet
from tests.variants import tiny
from variants.catalog.recipe import Step
from variants.compression.techniques import resolve
from variants.model.dataset import Samples, Split, TrainingData
from variants.model.forward import all_scores
from variants.model.loading import describe_interface
from variants.model.state import CompressionState
from variants.model.training import Schedule, Teacher, fit
from variants.runtime.onnx import OnnxRunner

IDS = 16


class Columns(nn.Module):
    """Looks up embeddings as columns of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(IDS, IDS, generator=torch.Generator().manual_seed(0)))
        self.head = nn.Linear(IDS, 3)

    def forward(self, ids: Tensor) -> Tensor:
        vectors = torch.index_select(self.table, 1, ids.reshape(-1)).T
        scores: Tensor = self.head(vectors.reshape(*ids.shape, IDS).mean(1))
        return scores


class Functional(nn.Module):
    """Uses the weights of a layer without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(tiny.INPUTS, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.layer.weight, self.layer.bias)


class Auxiliary(nn.Module):
    """Computes a value that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(tiny.INPUTS, 8)
        self.head = nn.Linear(8, 3)
        self.unused = nn.Linear(8, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.body(inputs).relu()
        self.unused(hidden)
        scores: Tensor = self.head(hidden)
        return scores


class ByKeyword(nn.Module):
    """Calls its layers with keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(tiny.INPUTS, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.head(input=self.norm(input=self.body(input=inputs)).relu())
        return scores


class Masked(nn.Module):
    """Has a buffer of constants that includes infinities."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(tiny.INPUTS, 64)
        self.head = nn.Linear(64, 3)
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(inputs).relu())
        return scores + self.mask[:1].exp()


def state(network: nn.Module, samples: Samples) -> CompressionState:
    return CompressionState(network.eval(), describe_interface(network, samples, {}), dense=network)


def apply(network: nn.Module, technique: str, **parameters: Any) -> CompressionState:
    """Apply a technique to a network with the inputs of `tiny`."""
    original = state(network, tiny.split(1).samples)
    step = Step(technique=technique, parameters=parameters)
    return resolve(step).apply(original, tiny.datasets().training_data, quiet())


def test_a_table_looked_up_by_columns_is_not_quantized_by_rows() -> None:
    ids = np.random.default_rng(0).integers(0, IDS, (60, 5))
    split = Split({"ids": ids}, ids[:, 0] % 3)
    original = state(Columns(), split.samples)
    result = resolve(Step(technique="int8")).apply(original, TrainingData(split, split), quiet())
    assert "layer table stays in FP32: it looks up columns" in result.notes
    assert result.graph is not None
    answers = OnnxRunner(result.graph, threads=1)(split.samples)["logits"]
    expected = all_scores(original.network, split.samples).numpy()
    assert np.abs(answers - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("technique", "parameters"),
    [
        ("unstructured", {"share": 0.5, "criterion": "wanda"}),
        ("unstructured", {"share": 0.5, "criterion": "activation", "scope": "global"}),
        ("unstructured", {"share": 0.5, "criterion": "sparsegpt"}),
        ("sparse-n:m", {"min_rows": 1, "criterion": "wanda"}),
    ],
)
def test_if_no_layer_can_be_observed_an_error_is_raised(
    technique: str, parameters: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="cannot be applied to any layer: layer layer stays dense"):
        apply(Functional(), technique, **parameters)


def test_smoothquant_ignores_unused_layers() -> None:
    result = apply(Auxiliary(), "smoothquant")
    assert [note for note in result.notes if note.startswith("body smoothed")]


def test_quantization_aware_training_supports_keyword_arguments() -> None:
    original = apply(ByKeyword(), "int8", samples=50)
    recover = resolve(Step(technique="recover", parameters={"epochs": 1}))
    assert recover.apply(original, tiny.datasets().training_data, quiet()).graph is not None


@pytest.mark.parametrize("criterion", ["activation", "taylor"])
def test_structured_pruning_supports_keyword_arguments(criterion: str) -> None:
    result = apply(ByKeyword(), "structured", share=0.3, criterion=criterion, through_norms=True)
    assert result.network.get_parameter("body.weight").shape[0] < 8


def test_constants_are_not_shared() -> None:
    result = apply(Masked(), "weight-sharing", values=16)
    assert "weights stored as codes: 2, of at most 16" in result.notes[-1]


def test_low_rank_keeps_the_datatype() -> None:
    network = tiny.network().double()
    samples = {name: array.astype(np.float64) for name, array in tiny.split(40).samples.items()}
    split = Split(samples, tiny.split(40).labels)
    step = Step(technique="low-rank", parameters={"break_even": 0.5})
    result = resolve(step).apply(state(network, samples), TrainingData(split, split), quiet())
    assert all_scores(result.network, samples).dtype == torch.float64


def test_reordering_accepts_a_network_whose_outputs_are_zero() -> None:
    network = tiny.network()
    with torch.no_grad():
        network.get_parameter("4.weight").zero_()
        network.get_parameter("4.bias").zero_()
    assert apply(network, "sparse-n:m", permute=True).masks


def test_dynamic_int8_can_exclude_a_convolution() -> None:
    network = nn.Sequential(
        nn.Unflatten(1, (1, tiny.INPUTS)), nn.Conv1d(1, 1, 3), nn.Flatten(), nn.Linear(6, 64),
        nn.ReLU(), nn.Linear(64, 3),
    )  # fmt: skip
    assert apply(network, "int8", mode="dynamic", exclude=("1",)).graph is not None


def test_distillation_supports_fp64() -> None:
    network = tiny.network().double()
    split = tiny.split(40)
    samples = {name: array.astype(np.float64) for name, array in split.samples.items()}
    teacher = Teacher(tiny.network(1).double(), 0.5, 2.0)
    fit(network, Split(samples, split.labels), Schedule(epochs=1), quiet(), teacher=teacher)
    assert all_scores(network, samples).isfinite().all()


def test_a_frozen_network_cannot_be_trained() -> None:
    network = tiny.network().requires_grad_(False)
    with pytest.raises(ValueError, match="the network cannot be trained: every parameter has"):
        fit(network, tiny.split(40), Schedule(epochs=1), quiet())


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_a_training_of_few_steps_changes_the_weights(epochs: int) -> None:
    network = tiny.network()
    fit(network, tiny.split(40), Schedule(epochs=epochs), quiet())
    before = tiny.network().state_dict()
    change = max(
        (tensor - before[name]).abs().max() for name, tensor in network.state_dict().items()
    )
    assert change > 1e-5


def test_structured_recovery_without_rounds_raises() -> None:
    with pytest.raises(ValueError, match="training between rounds needs rounds of at least 2"):
        resolve(Step(technique="structured", parameters={"share": 0.5, "recover": {"epochs": 1}}))


def test_a_row_of_few_columns_keeps_one_weight() -> None:
    network = nn.Sequential(
        nn.Unflatten(1, (8, 1, 1)), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip
    result = apply(network, "unstructured", share=0.96, criterion="wanda")
    assert result.masks["1.weight"].flatten(1).sum(1).tolist() == [1] * 8

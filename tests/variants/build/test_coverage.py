from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.small import quiet
from variants.build.build import apply_technique
from variants.build.coverage import COVERED, find_unmaskable
from variants.catalog.coverage import StepCoverage
from variants.catalog.recipe import Step
from variants.compression.techniques import TECHNIQUES, resolve
from variants.model.dataset import Split, TrainingData
from variants.model.loading import describe_interface
from variants.model.state import CompressionState


class Recurrent(nn.Module):
    """Most weights are a GRU's; one parameter belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(20, 16)
        self.rnn = nn.GRU(16, 32, batch_first=True)
        self.scale = nn.Parameter(torch.ones(1, 32))
        self.f = nn.Linear(32, 4)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.f(self.rnn(self.emb(input_ids))[0][:, -1] * self.scale)  # type: ignore[no-any-return]


TOTAL = sum(parameter.numel() for parameter in Recurrent().parameters())
GRU = sum(parameter.numel() for parameter in Recurrent().rnn.parameters() if parameter.ndim > 1)


@pytest.fixture(scope="module")
def covered() -> Callable[..., StepCoverage]:
    torch.manual_seed(0)
    network = Recurrent().eval()
    ids = np.random.default_rng(0).integers(1, 20, (60, 6))
    split = Split({"input_ids": ids}, np.arange(60) % 4)
    state = CompressionState(network, describe_interface(network, split.samples, {}), dense=network)

    def apply(technique: str, **parameters: object) -> StepCoverage:
        step = resolve(Step(technique=technique, parameters=dict(parameters)))
        after = apply_technique("v", step, state, TrainingData(split, split), quiet())
        (coverage,) = after.coverage
        return coverage

    return apply


@pytest.mark.parametrize(
    ("technique", "parameters", "touched"),
    [
        ("int8", {}, {"emb", "f"}),
        ("int8", {"mode": "dynamic"}, {"emb", "f"}),
        ("unstructured", {"share": 0.5}, {"f"}),
        ("sparse-n:m", {"min_rows": 1}, {"f"}),
        ("low-rank", {"break_even": 0.5}, {"f"}),
        ("fp16", {}, {"emb", "f", "rnn"}),
    ],
)
def test_a_recurrent_layer_that_a_step_leaves_alone_is_named(
    covered: Callable[..., StepCoverage],
    technique: str,
    parameters: dict[str, object],
    touched: set[str],
) -> None:
    step = covered(technique, **parameters)
    assert step.weights == TOTAL
    left = {each.layer: each for each in step.untouched}
    assert {"emb", "rnn", "f"} - left.keys() == touched
    if "rnn" in left:
        assert (left["rnn"].kind, left["rnn"].weights) == ("GRU", GRU)
        assert left["rnn"].reason == f"{technique} changes {COVERED[technique][1]}"
        assert step.share < 0.15
        assert "left alone: rnn (GRU, 4,608 weights: " in step.describe()
    else:
        assert step.share > 0.95
    assert step.touched + sum(each.weights for each in step.untouched) == step.weights


def test_a_parameter_that_is_no_layers_is_named_so(covered: Callable[..., StepCoverage]) -> None:
    (line,) = (e for e in covered("unstructured", share=0.5).untouched if e.layer == "scale")
    assert (line.kind, line.weights) == ("parameter", 32)
    assert line.reason.startswith("it is no layer's")


def test_the_reason_of_an_excluded_layer_is_that(covered: Callable[..., StepCoverage]) -> None:
    (line,) = (e for e in covered("int8", exclude=["f"]).untouched if e.layer == "f")
    assert line.reason == "excluded"


def test_training_touches_every_weight(covered: Callable[..., StepCoverage]) -> None:
    step = covered("recover", epochs=1)
    assert [each.layer for each in step.untouched if each.layer != "emb"] == []


def test_every_technique_says_what_it_can_change() -> None:
    assert COVERED.keys() == TECHNIQUES.keys()


@pytest.mark.parametrize(
    ("layer", "name", "kind"),
    [
        (nn.Conv1d(2, 3, 3), "0", "Conv1d"),
        (nn.Conv3d(2, 3, 3), "0", "Conv3d"),
        (nn.MultiheadAttention(4, 2), "0.in_proj_weight", "MultiheadAttention"),
        (nn.Bilinear(3, 4, 5), "0", "Bilinear"),
        (nn.LSTM(3, 4), "0", "LSTM"),
        (nn.EmbeddingBag(9, 4), "0", "EmbeddingBag"),
        (nn.Embedding(9, 4), "0", "Embedding"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_sensitivity_names_the_layers_that_it_does_not_measure(
    layer: nn.Module, name: str, kind: str
) -> None:
    (line,) = find_unmaskable(nn.Sequential(layer, nn.Linear(3, 3), nn.Conv2d(2, 2, 3)))
    assert (line.layer, line.kind) == (name, kind)

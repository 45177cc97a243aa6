from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from rich.progress import Progress

from tests.small import quiet
from tests.variants import tiny
from variants.build.build import apply_technique
from variants.build.step_check import apply_checked, compare, far_below_dense
from variants.catalog.catalog import Catalog, Interval
from variants.catalog.recipe import Step
from variants.compression.techniques import resolve_all
from variants.compression.techniques.half import Fp16
from variants.compression.techniques.int8 import Int8
from variants.compression.techniques.smoothquant import SmoothQuant
from variants.compression.techniques.technique import Technique
from variants.compression.techniques.unstructured import Unstructured
from variants.model.dataset import Split, TrainingData
from variants.model.forward import all_scores
from variants.model.state import CompressionState


def own_labels(state: CompressionState) -> TrainingData:
    """Return data whose labels are the network's own answers: dense is right on all."""

    def split(seed: int) -> Split:
        samples = tiny.split(200, seed).samples
        return Split(samples, all_scores(state.dense, samples).numpy().argmax(axis=1))

    return TrainingData(split(1), split(2))


STATE = tiny.state()
DATA = own_labels(STATE)


def with_wrong_weight(state: CompressionState, layer: str) -> CompressionState:
    """Return the state with the weight of this layer negated in its graph, if it is in INT8."""
    assert state.graph is not None
    model = onnx.load_model_from_string(state.graph)
    for tensor in model.graph.initializer:
        if tensor.name == f"{layer}.weight_quantized":
            negated = -numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(negated, tensor.name))
    return replace(state, graph=model.SerializeToString())


class OneLayerWrong(Int8):
    """INT8 with a defect in layer 2."""

    def apply(self, *given: Any) -> CompressionState:
        return with_wrong_weight(super().apply(*given), "2")


class TwoLayersWrong(OneLayerWrong):
    """INT8 with defects in layers 2 and 4."""

    def apply(self, *given: Any) -> CompressionState:
        return with_wrong_weight(super().apply(*given), "4")


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_the_one_layer_whose_graph_is_wrong_stays_in_fp32(mode: str) -> None:
    technique = OneLayerWrong.model_validate({"mode": mode})
    result = apply_checked(technique, STATE, DATA, quiet())
    assert "WARNING: layer 2 stays in FP32: with it in INT8, the graph has" in result.notes[-1]


def test_a_graph_that_is_wrong_in_two_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^fast: int8: the result is wrong .* accuracy of"):
        apply_technique("fast", TwoLayersWrong(mode="dynamic"), STATE, DATA, quiet())


class Shifted(SmoothQuant):
    """SmoothQuant that changes a bias."""

    def apply(self, state: CompressionState, *given: Any) -> CompressionState:
        after = tiny.state(seed=1)
        return replace(state, network=after.network)


def test_a_step_that_keeps_the_outputs_is_held_to_it() -> None:
    with pytest.raises(ValueError, match="the outputs should not change"):
        apply_checked(Shifted(), STATE, DATA, quiet())


class Regrown(Unstructured):
    """Pruning after which a removed weight is not zero."""

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        after = super().apply(state, data, progress)
        with torch.no_grad():
            for name in after.masks:
                after.network.get_parameter(name).add_(1.0)
        return after


def test_a_removed_weight_must_be_zero() -> None:
    with pytest.raises(ValueError, match="not zero where its mask"):
        apply_checked(Regrown(share=0.5), STATE, DATA, quiet())


@pytest.mark.parametrize(
    "technique", [Int8(), Int8(mode="dynamic"), Fp16(), Unstructured(share=0.9)]
)
def test_what_the_technique_costs_is_not_a_fault(technique: Technique) -> None:
    result = apply_checked(technique, STATE, DATA, quiet())
    assert not any("WARNING" in note for note in result.notes)


def test_a_recipe_of_several_steps_passes() -> None:
    steps = (
        Step(technique="unstructured", parameters={"share": 0.5}),
        Step(technique="int8", parameters={}),
        Step(technique="recover", parameters={"epochs": 1}),
    )
    state = STATE
    for technique in resolve_all(steps):
        state = apply_checked(technique, state, DATA, quiet())
    assert state.graph is not None


def test_a_loss_within_chance_is_not_a_fault() -> None:
    labels = np.zeros(10, np.int64)
    expected = np.tile([1.0, 0.0], (10, 1))
    actual = expected.copy()
    actual[:2] = [0.0, 1.0]
    assert compare(actual, expected, labels) is None
    assert "0.0%" in str(compare(expected[:, ::-1], expected, labels))


@pytest.mark.parametrize(("high", "warns"), [(-0.11, True), (-0.09, False)])
def test_a_build_warns_of_a_variant_that_is_far_below_dense(
    small_catalog: Path, high: float, warns: bool
) -> None:
    card = Catalog.load(small_catalog).variants["int8"].report_cards[0]
    difference = Interval(value=-0.2, low=-0.3, high=high)
    note = far_below_dense(card.model_copy(update={"accuracy_difference": difference}))
    assert (note is not None) == warns
    assert note is None or "-20.00 points [-30.00, -11.00] against dense" in note

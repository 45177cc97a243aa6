from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.small import quiet
from variants.compression.quantization.comparator import (
    GraphComparator,
    choose_by_agreement,
    limit_accuracy_drop,
    signal_to_noise_db,
)
from variants.compression.quantization.layer import QuantizableLayer
from variants.model.dataset import Split

LAYERS = [
    QuantizableLayer(name, name, "MatMul", f"{name}.weight") for name in ("fine", "bad", "worst")
]
SHIFT = {"fine": 0.01, "bad": 1.0, "worst": 3.0}
"""Shift of the second of two scores by each layer in INT8."""


def shifting(layers: Sequence[QuantizableLayer]) -> bytes:
    """Return a graph that adds the shifts of these layers to its input, the scores."""
    shift = np.array([0, sum(SHIFT[layer.name] for layer in layers)], np.float32)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "shift"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(shift, "shift")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert isinstance(model, onnx.ModelProto)
    serialized: bytes = model.SerializeToString()
    return serialized


def comparator() -> GraphComparator:
    """Return a comparator on 40 samples of the first class, with margins of 0.1 to 4.0."""
    scores = np.zeros((40, 2), np.float32)
    scores[:, 0] = np.arange(1, 41) / 10
    return GraphComparator(shifting([]), Split({"x": scores}, np.zeros(40, np.int64)), "logits")


def test_signal_to_noise_is_in_decibels() -> None:
    reference = np.array([[3.0, 4.0]])
    assert signal_to_noise_db(reference * 1.1, reference) == pytest.approx(20)
    assert signal_to_noise_db(reference, reference) == np.inf


def test_drop_and_agreement_are_shares_of_the_held_out_samples() -> None:
    graph = shifting([LAYERS[1]])
    assert comparator().drop(graph) == pytest.approx(9 / 40)  # at 1.0 the first class wins the tie
    assert comparator().agreement(graph) == pytest.approx(31 / 40)


@pytest.mark.parametrize(
    ("max_drop", "float_layers", "drop"),
    [
        pytest.param(1.0, [], 1.0, id="all layers within the budget"),
        pytest.param(0.3, ["worst"], 10 / 40, id="within the budget without the worst"),
        pytest.param(0.0, ["worst", "bad"], 0.0, id="within the budget with one layer"),
    ],
)
def test_the_worst_layers_stay_in_fp32_until_the_budget_is_met(
    max_drop: float, float_layers: list[str], drop: float
) -> None:
    mixed = limit_accuracy_drop(max_drop, LAYERS, shifting, comparator(), quiet())
    assert [layer.name for layer, _ in mixed.float_layers] == float_layers
    assert [layer.name for layer in mixed.quantized] == [
        layer.name for layer in LAYERS if layer.name not in float_layers
    ]
    assert mixed.graph == shifting(mixed.quantized)
    assert mixed.drop == pytest.approx(drop)
    assert mixed.describe()[-1] == (
        f"accuracy {0 - drop:+.2%} against FP32, on 40 held-out validation samples"
    )


def test_the_notes_give_the_signal_to_noise_ratio_of_each_layer_in_fp32() -> None:
    mixed = limit_accuracy_drop(0.3, LAYERS, shifting, comparator(), quiet())
    power = float((np.square(np.arange(1, 41) / 10)).sum())
    expected = 10 * np.log10(power / (40 * 9))
    assert mixed.describe()[0] == (
        f"layer worst stays in FP32: the signal-to-noise ratio is {expected:.1f} dB with only this "
        "layer in INT8"
    )


def test_a_budget_that_no_layer_meets_is_refused() -> None:
    message = r"max_drop = 0\.00% cannot be met .* by 22\.50% with only the best, bad"
    with pytest.raises(ValueError, match=message):
        limit_accuracy_drop(0.0, LAYERS[1:], shifting, comparator(), quiet())


def test_the_writer_of_the_graph_that_agrees_most_is_chosen() -> None:
    writers = {
        "far": lambda layers: shifting(LAYERS),
        "near": lambda layers: shifting(LAYERS[:2]),
        "nearer": lambda layers: shifting(LAYERS[:1]),
        "equal agreement, more noise": lambda layers: shifting(LAYERS[:1] * 3),
    }
    best, note = choose_by_agreement(writers, LAYERS, comparator())
    assert best == "nearer"
    assert "far 0.00%" in note
    assert "near 75.00%" in note
    assert "nearer 100.00% (47.4 dB)" in note
    assert note.startswith("ranges by nearer; agreement with FP32 on 40 held-out samples: ")

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
HARM = {"fine": 0.01, "bad": 1.0, "worst": 3.0}
"""How far each layer in INT8 shifts the second of two scores."""


def shifting(layers: Sequence[QuantizableLayer]) -> bytes:
    """Return a graph that adds the layers' harm to the scores that it is given."""
    shift = np.array([0, sum(HARM[layer.name] for layer in layers)], np.float32)
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
    """40 samples that all are of the first class, by margins of 0.1 to 4.0."""
    scores = np.zeros((40, 2), np.float32)
    scores[:, 0] = np.arange(1, 41) / 10
    return GraphComparator(shifting([]), Split({"x": scores}, np.zeros(40, np.int64)), "logits")


def test_signal_to_noise_is_in_decibels() -> None:
    reference = np.array([[3.0, 4.0]])
    assert signal_to_noise_db(reference * 1.1, reference) == pytest.approx(20)
    assert signal_to_noise_db(reference, reference) == np.inf


def test_drop_and_agreement_are_shares_of_the_held_out_samples() -> None:
    graph = shifting([LAYERS[1]])
    assert comparator().drop(graph) == pytest.approx(
        9 / 40
    )  # 1.0 itself is a tie, won by the first
    assert comparator().agreement(graph) == pytest.approx(31 / 40)


@pytest.mark.parametrize(
    ("max_drop", "float_layers", "drop"),
    [
        pytest.param(1.0, [], 1.0, id="nothing need be left out"),
        pytest.param(0.3, ["worst"], 10 / 40, id="without the worst it holds"),
        pytest.param(0.0, ["worst", "bad"], 0.0, id="only the fine one stays"),
    ],
)
def test_the_worst_layers_leave_until_the_budget_holds(
    max_drop: float, float_layers: list[str], drop: float
) -> None:
    kept = limit_accuracy_drop(max_drop, LAYERS, shifting, comparator(), quiet())
    assert [layer.name for layer, _ in kept.float_layers] == float_layers
    assert [layer.name for layer in kept.quantised] == [
        layer.name for layer in LAYERS if layer.name not in float_layers
    ]
    assert kept.graph == shifting(kept.quantised)
    assert kept.drop == pytest.approx(drop)
    assert kept.describe()[-1] == (
        f"accuracy {0 - drop:+.2%} to FP32, on 40 validation samples that gave no ranges"
    )


def test_the_notes_say_how_much_a_layer_alone_would_lose() -> None:
    kept = limit_accuracy_drop(0.3, LAYERS, shifting, comparator(), quiet())
    power = float((np.square(np.arange(1, 41) / 10)).sum())
    expected = 10 * np.log10(power / (40 * 9))
    assert kept.describe()[0] == (
        f"layer worst stays in FP32: it alone in INT8 leaves {expected:.1f} dB of signal to noise"
    )


def test_a_budget_that_no_layer_keeps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"only the best layer, bad, in INT8: max_drop = 0\.00%"):
        limit_accuracy_drop(0.0, LAYERS[1:], shifting, comparator(), quiet())


def test_of_several_writers_the_one_that_agrees_most_is_taken() -> None:
    writers = {
        "far": lambda layers: shifting(LAYERS),
        "near": lambda layers: shifting(LAYERS[:2]),
        "nearer": lambda layers: shifting(LAYERS[:1]),
        "as near, more noise": lambda layers: shifting(LAYERS[:1] * 3),
    }
    best, note = choose_by_agreement(writers, LAYERS, comparator())
    assert best == "nearer"
    assert "far 0.00%" in note
    assert "near 75.00%" in note
    assert "nearer 100.00% (47.4 dB)" in note
    assert note.startswith("ranges by nearer; agreement with FP32 on 40 held-out samples: ")

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from variants.compression.quantization.embedding import quantize_embeddings
from variants.compression.quantization.layer import QuantizableLayer
from variants.runtime.onnx import OnnxRunner

TABLE = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
TABLE[3] *= 1000
TABLE[5] = 0
TABLE[7, :3] = 0


def quantized() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table.weight", "ids"], ["rows"], name="look")],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t"])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", "t", 6])],
        [numpy_helper.from_array(TABLE, "table.weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    layer = QuantizableLayer("table", "look", "Gather", "table.weight")
    return quantize_embeddings(model, [layer])


def test_each_row_is_within_half_a_step_of_its_own_scale() -> None:
    ids = np.arange(20).reshape(4, 5)
    rows = OnnxRunner(quantized().SerializeToString(), threads=1)({"ids": ids})["rows"]
    steps = np.abs(TABLE).max(axis=1, keepdims=True) / 127
    assert (np.abs(rows.reshape(20, 6) - TABLE) <= steps * 0.5001).all()
    assert np.abs(rows.reshape(20, 6) - TABLE).max() > 0


def test_the_table_is_int8_and_zeros_stay_zero() -> None:
    tensors = {t.name: numpy_helper.to_array(t) for t in quantized().graph.initializer}
    assert {name: (str(a.dtype), a.shape) for name, a in tensors.items()} == {
        "table.weight_quantized": ("int8", (20, 6)),
        "table.weight_scale": ("float32", (20, 1)),
    }
    assert ((tensors["table.weight_quantized"] == 0) >= (TABLE == 0)).all()
    assert (
        np.abs(tensors["table.weight_quantized"]).max(axis=1) == np.where(TABLE.any(1), 127, 0)
    ).all()

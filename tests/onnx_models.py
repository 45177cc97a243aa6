"""ONNX models of one or two nodes, for tests of runners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from onnx import TensorProto, helper

ONNX: Final = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def identity(datatypes: Mapping[str, str]) -> bytes:
    """Return a model that outputs each two-dimensional input under its name after `same `."""
    return casting({name: (datatype, datatype) for name, datatype in datatypes.items()})


def casting(datatypes: Mapping[str, tuple[str, str]]) -> bytes:
    """Return a model like `identity` that casts the first datatype of each pair to the second."""
    nodes, inputs, outputs = [], [], []
    for name, (source, target) in datatypes.items():
        if source == target:
            nodes.append(helper.make_node("Identity", [name], [f"same {name}"]))
        else:
            nodes.append(helper.make_node("Cast", [name], [f"same {name}"], to=ONNX[target]))
        inputs.append(helper.make_tensor_value_info(name, ONNX[source], ["n", "m"]))
        outputs.append(helper.make_tensor_value_info(f"same {name}", ONNX[target], ["n", "m"]))
    graph = helper.make_graph(nodes, "graph", inputs, outputs)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tests"
    )
    return bytes(model.SerializeToString())

"""ONNX models of a node or two, for tests of what runs them."""

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
    """A model that gives each input, of two dimensions, back with `same ` before its name."""
    return casting({name: (datatype, datatype) for name, datatype in datatypes.items()})


def casting(datatypes: Mapping[str, tuple[str, str]]) -> bytes:
    """As `identity`, but what comes in as the first datatype goes out as the second."""
    nodes, inputs, outputs = [], [], []
    for name, (taken, given) in datatypes.items():
        if taken == given:
            nodes.append(helper.make_node("Identity", [name], [f"same {name}"]))
        else:
            nodes.append(helper.make_node("Cast", [name], [f"same {name}"], to=ONNX[given]))
        inputs.append(helper.make_tensor_value_info(name, ONNX[taken], ["n", "m"]))
        outputs.append(helper.make_tensor_value_info(f"same {name}", ONNX[given], ["n", "m"]))
    graph = helper.make_graph(nodes, "graph", inputs, outputs)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tests"
    )
    return bytes(model.SerializeToString())

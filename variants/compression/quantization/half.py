"""Weights stored in 16 bits inside an ONNX graph, and converted to FP32 when it is loaded.

    weight (FP16 or BF16) ─▶ Cast ─▶ FP32 ─▶ the layer, unchanged

onnxruntime folds the Cast when it loads the graph, because the Cast depends on no input. The file
is half as large, and the CPU computes as for the dense graph: it has no faster FP16 products.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from variants.catalog.datatype import NUMPY

Half: TypeAlias = Literal["FP16", "BF16"]

LARGEST: Final[Mapping[Half, float]] = {"FP16": 65504.0, "BF16": 3.3895314e38}
"""Largest finite number of each type."""

_MIN_SIZE: Final = 64
"""Minimum number of values of a converted tensor. For a smaller one, the Cast would take as
many bytes as the conversion saves."""
HALF_SUFFIX: Final = "_half"
"""Suffix of the name of a tensor that is stored in 16 bits."""


def store_half(model: onnx.ModelProto, kind: Half) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return a copy of the model with its FP32 tensors in 16 bits, rounded to nearest, and notes.

    Tensors of fewer than 64 numbers stay in FP32, as do tensors with a number that is too large.
    Raises `ValueError` if no tensor is converted.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.initializer[:], result.graph.node[:]
    halved, too_large = 0, []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _MIN_SIZE:
            result.graph.initializer.append(tensor)
        elif not np.abs(values).max() <= LARGEST[kind]:
            result.graph.initializer.append(tensor)
            too_large.append(f"{tensor.name} stays in FP32: {np.abs(values).max():g} is too large")
        else:
            name = tensor.name + HALF_SUFFIX
            stored = numpy_helper.from_array(values.astype(NUMPY[kind]), name)
            result.graph.initializer.append(stored)
            result.graph.node.append(
                helper.make_node("Cast", [name], [tensor.name], name=f"{name}_cast", to=1)
            )
            halved += 1
    if not halved:
        reason = "; ".join(too_large) or "all are small"
        raise ValueError(f"no tensor can be stored in {kind}: {reason}")
    result.graph.node.extend(model.graph.node)
    return result, (f"weights stored in {kind}: {halved} tensors", *too_large)

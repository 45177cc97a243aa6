"""Weights stored in 16 bits inside an ONNX graph, widened when a runtime loads it.

    weight (FP16 or BF16) ─▶ Cast ─▶ FP32 ─▶ the layer, as before

onnxruntime folds the Cast on loading, since nothing in it depends on an input: on a CPU, which has
no faster products of FP16, the file is half as large and what runs is dense.
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
"""The largest finite number of each."""

_SMALL: Final = 64
"""Numbers below which the node that widens a tensor takes about as many bytes as it saves."""
_SUFFIX: Final = "_half"


def store_half(model: onnx.ModelProto, kind: Half) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return a copy that stores its FP32 tensors in 16 bits, rounded to nearest, and notes.

    Those of fewer than 64 numbers stay in FP32, and so do those of which a number is too large.
    Raises `ValueError` if none is left.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.initializer[:], made.graph.node[:]
    halved, too_large = 0, []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _SMALL:
            made.graph.initializer.append(tensor)
        elif not np.abs(values).max() <= LARGEST[kind]:
            made.graph.initializer.append(tensor)
            too_large.append(f"{tensor.name} stays in FP32: {np.abs(values).max():g} is too large")
        else:
            name = tensor.name + _SUFFIX
            stored = numpy_helper.from_array(values.astype(NUMPY[kind]), name)
            made.graph.initializer.append(stored)
            made.graph.node.append(
                helper.make_node("Cast", [name], [tensor.name], name=f"{name}_cast", to=1)
            )
            halved += 1
    if not halved:
        raise ValueError("no tensor can be halved: " + ("; ".join(too_large) or "all are small"))
    made.graph.node.extend(model.graph.node)
    return made, (f"weights stored in {kind}: {halved} tensors", *too_large)

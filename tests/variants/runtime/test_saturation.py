from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from variants.catalog.hardware import hardware
from variants.runtime.onnx import EXACT_PRODUCTS, OnnxRunner, session_options
from variants.runtime.saturation import saturates

PROCESSORS = {
    "AVX2": (("avx", "avx2", "fma", "f16c"), True),
    "AVX-512 without VNNI": (("avx2", "avx512f", "avx512bw", "avx512vl"), True),
    "AVX-512 VNNI": (("avx2", "avx512f", "avx512_vnni"), False),
    "AVX-VNNI": (("avx2", "avx_vnni"), False),
    "AMX": (("avx2", "avx512f", "amx_tile", "amx_int8"), False),
    "ARM with dot products": (("asimd", "asimddp"), False),
    "ARM with matrix products": (("asimd", "i8mm"), False),
    "ARM without dot products": (("asimd",), True),
    "unknown": ((), True),
}
"""The flags of a kind of processor, and whether its 8-bit products are assumed to saturate."""


@pytest.mark.parametrize(("flags", "expected"), PROCESSORS.values(), ids=PROCESSORS)
def test_products_saturate_without_instructions_that_add_in_32_bits(
    flags: tuple[str, ...], expected: bool
) -> None:
    assert saturates(flags) is expected


@pytest.mark.parametrize(("flags", "expected"), PROCESSORS.values(), ids=PROCESSORS)
def test_sessions_pay_for_exact_products_only_where_they_would_saturate(
    flags: tuple[str, ...], expected: bool
) -> None:
    options = session_options(2, flags)
    assert options.get_session_config_entry(EXACT_PRODUCTS) == str(int(expected))
    assert options.intra_op_num_threads == 2


def product(largest: int) -> tuple[bytes, NDArray[np.uint8], NDArray[np.int32]]:
    """Return a graph that multiplies integers, its input, and the exact output."""
    signs = np.where(np.random.default_rng(0).random((64, 48)) < 0.8, 1, -1)
    weight = (largest * signs).astype(np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["n", 48])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    inputs = np.full((3, 64), 255, np.uint8)
    serialized: bytes = model.SerializeToString()
    return serialized, inputs, inputs.astype(np.int32) @ weight.astype(np.int32)


@pytest.mark.parametrize("largest", [64, 65, 127])
def test_the_runner_multiplies_exactly_on_this_processor(largest: int) -> None:
    model, inputs, exact = product(largest)
    np.testing.assert_array_equal(OnnxRunner(model, threads=1)({"x": inputs})["y"], exact)


def plain_session_is_exact(largest: int) -> bool:
    model, inputs, exact = product(largest)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.array_equal(session.run(None, {"x": inputs})[0], exact)


def test_the_rule_holds_for_onnxruntime_on_this_processor() -> None:
    flags = hardware(1).flags
    assert plain_session_is_exact(64)
    assert plain_session_is_exact(127) or saturates(flags)
    if "avx2" in flags:
        assert plain_session_is_exact(127) != saturates(flags)


def initializers(largest: int, flags: tuple[str, ...], path: str) -> dict[str, int]:
    """Return the types of the tensors that onnxruntime keeps after its optimization."""
    options = session_options(1, flags)
    options.optimized_model_filepath = path
    onnxruntime.InferenceSession(product(largest)[0], options, providers=["CPUExecutionProvider"])
    return {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}


@pytest.mark.skipif("avx2" not in hardware(1).flags, reason="onnxruntime converts on AVX2 only")
def test_weights_of_7_bits_are_never_converted(tmp_path: Path) -> None:
    path = str(tmp_path / "loaded.onnx")
    assert initializers(64, ("avx2",), path) == {"w": TensorProto.INT8}
    assert set(initializers(127, ("avx2",), path).values()) == {TensorProto.UINT8}
    assert initializers(127, ("avx2", "avx_vnni"), path) == {"w": TensorProto.INT8}

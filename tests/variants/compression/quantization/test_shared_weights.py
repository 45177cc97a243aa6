from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from variants.compression.quantization.codebook import Codebook, make_codebook
from variants.compression.quantization.shared_weights import find_codebooks, store_codebooks
from variants.measurement.size import Size, onnx_size
from variants.runtime.onnx import OnnxRunner


def _model(weight: np.ndarray, opset: int = 18) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", len(weight)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", *weight.shape[1:]])],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _shared(shape: tuple[int, ...], values: int) -> tuple[np.ndarray, Codebook]:
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return weight, make_codebook(weight, values)


SHAPES = [(64, 32), (63, 31)]
"""Shapes with an even and an odd number of weights."""


@pytest.mark.parametrize("values", [2, 16, 17, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_graph_computes_with_the_shared_values(shape: tuple[int, int], values: int) -> None:
    weight, codebook = _shared(shape, values)
    stored = store_codebooks(_model(weight), {"w": codebook})
    onnx.checker.check_model(stored, full_check=True)
    run = OnnxRunner(stored.SerializeToString(), threads=1)
    product = run({"x": np.eye(shape[0], dtype=np.float32)})["y"]
    np.testing.assert_array_equal(product, codebook.decode())


@pytest.mark.parametrize("values", [16, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_loaded_graph_is_dense(shape: tuple[int, int], values: int, tmp_path: Path) -> None:
    weight, codebook = _shared(shape, values)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3
    stored = store_codebooks(_model(weight), {"w": codebook}).SerializeToString()
    onnxruntime.InferenceSession(stored, options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(tmp_path / "loaded.onnx").graph
    assert [node.op_type for node in loaded.node] == ["MatMul"]
    (held,) = (numpy_helper.to_array(tensor) for tensor in loaded.initializer)
    np.testing.assert_array_equal(held, codebook.decode())


@pytest.mark.parametrize("values", [2, 16, 17, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_stored_codebooks_are_found(shape: tuple[int, int], values: int) -> None:
    weight, codebook = _shared(shape, values)
    encoded_codebook = find_codebooks(store_codebooks(_model(weight), {"w": codebook}).graph)[
        "w"
    ].codebook
    np.testing.assert_array_equal(encoded_codebook.codes, codebook.codes)
    np.testing.assert_array_equal(encoded_codebook.values, codebook.values)


@pytest.mark.parametrize(
    ("shape", "values", "expected"),
    [
        pytest.param((64, 32), 256, 64 * 32 + 256 * 4, id="a byte for each code"),
        pytest.param((64, 32), 16, 64 * 32 // 2 + 16 * 4, id="half a byte for each code"),
        pytest.param((63, 31), 16, (63 * 31 + 1) // 2 + 16 * 4, id="an odd number of half bytes"),
    ],
)
def test_weight_bytes_are_those_of_codes_and_values(
    shape: tuple[int, int], values: int, expected: int
) -> None:
    weight, codebook = _shared(shape, values)
    stored = store_codebooks(_model(weight), {"w": codebook}).SerializeToString()
    assert onnx_size(stored) == Size(weight.size, weight.size, expected)
    assert expected < len(stored) < expected + 800


@pytest.mark.parametrize("values", [16, 256])
def test_codes_of_zero_are_not_counted_as_nonzeros(values: int) -> None:
    weight, _ = _shared((64, 32), values)
    weight[:48] = 0
    stored = store_codebooks(
        _model(weight), {"w": make_codebook(weight, values)}
    ).SerializeToString()
    size = onnx_size(stored)
    assert (size.parameters, size.nonzeros) == (64 * 32, 16 * 32)


def test_a_weight_that_codes_would_not_make_smaller_is_not_changed() -> None:
    weight, codebook = _shared((8, 8), 16)
    model = _model(weight)
    assert store_codebooks(model, {"w": codebook}).SerializeToString() == model.SerializeToString()


def test_the_given_model_is_not_changed() -> None:
    weight, codebook = _shared((64, 32), 16)
    model = _model(weight)
    before = model.SerializeToString()
    store_codebooks(model, {"w": codebook})
    assert model.SerializeToString() == before


def test_an_opset_without_bitwise_operators_is_refused() -> None:
    weight, codebook = _shared((64, 32), 16)
    with pytest.raises(ValueError, match="opset of 18 or more, this is 17"):
        store_codebooks(_model(weight, opset=17), {"w": codebook})

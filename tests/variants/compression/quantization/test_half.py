from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.variants import two_inputs
from variants.catalog.datatype import NUMPY
from variants.compression.export import export
from variants.compression.quantization.half import Half, store_half
from variants.measurement.size import onnx_size
from variants.runtime.onnx import OnnxRunner


def operators(model: onnx.ModelProto) -> list[str]:
    return sorted(node.op_type for node in model.graph.node)


def loaded(model: onnx.ModelProto, path: Path) -> list[str]:
    """Return the operators of the graph as onnxruntime optimizes it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return operators(onnx.load(path))


@pytest.mark.parametrize(("kind", "tolerance"), [("FP16", 2**-11), ("BF16", 2**-8)])
def test_weights_are_rounded_and_the_optimized_graph_is_dense(
    kind: Half, tolerance: float, tmp_path: Path
) -> None:
    network = two_inputs.network()
    original = two_inputs.state()
    samples = two_inputs.split(16).samples
    model = export(network, samples, original.interface)
    converted, notes = store_half(model, kind)
    onnx.checker.check_model(converted)
    stored = {t.name: numpy_helper.to_array(t) for t in converted.graph.initializer}
    table = network.embedding.weight.detach().numpy()
    assert stored["embedding.weight_half"].dtype == NUMPY[kind]
    halved = stored["embedding.weight_half"].astype(np.float32)
    assert (np.abs(halved - table) <= np.abs(table) * tolerance).all()
    assert notes == (f"weights stored in {kind}: 2 tensors",)
    assert loaded(converted, tmp_path / "half.onnx") == loaded(model, tmp_path / "dense.onnx")
    dense, half = (
        OnnxRunner(m.SerializeToString(), threads=1)(samples)["logits"] for m in (model, converted)
    )
    assert 0 < np.abs(dense - half).max() < 4 * tolerance * np.abs(dense).max()
    counted, dense_size = (
        onnx_size(converted.SerializeToString()),
        onnx_size(model.SerializeToString()),
    )
    assert counted.parameters == dense_size.parameters
    assert dense_size.weight_bytes - counted.weight_bytes == 2 * (30 * 8 + 8 * 16)


def weights(**tensors: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", name], [f"{name}_out"]) for name in tensors],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info(f"{n}_out", TensorProto.FLOAT, ["n", 8]) for n in tensors],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    return helper.make_model(graph)


def test_a_tensor_too_large_for_fp16_stays_in_fp32_and_is_named() -> None:
    large = np.eye(8, dtype=np.float32)
    large[1, 1] = 70_000
    model = weights(large=large, fits=np.eye(8, dtype=np.float32))
    converted, notes = store_half(model, "FP16")
    assert {t.name: t.data_type for t in converted.graph.initializer} == {
        "large": TensorProto.FLOAT,
        "fits_half": TensorProto.FLOAT16,
    }
    assert notes == ("weights stored in FP16: 1 tensors", "large stays in FP32: 70000 is too large")
    assert len(store_half(model, "BF16")[1]) == 1


def test_a_model_without_tensors_to_convert_is_refused() -> None:
    with pytest.raises(ValueError, match="no tensor can be stored in BF16: all are small"):
        store_half(weights(small=np.ones((8, 2), np.float32)), "BF16")

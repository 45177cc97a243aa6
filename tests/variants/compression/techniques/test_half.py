from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np
import pytest

from tests.small import quiet
from tests.variants import tiny_conv, two_inputs
from variants.compression.export import export
from variants.compression.techniques.half import Bf16, Fp16, HalfPrecision
from variants.compression.techniques.n_m import SparseNM
from variants.measurement.size import Size, onnx_size
from variants.model.forward import all_scores
from variants.model.state import Conversion
from variants.runtime.onnx import OnnxRunner


@cache
def _dense_size(module: ModuleType) -> Size:
    original, data = module.state(), module.datasets().training_data
    dense = export(original.network, data.validation.samples, original.interface)
    return onnx_size(dense.SerializeToString())


@pytest.mark.parametrize("module", [tiny_conv, two_inputs], ids=["conv", "text"])
@pytest.mark.parametrize(("technique", "tolerance"), [(Fp16(), 1e-3), (Bf16(), 1e-2)])
def test_weights_take_half_the_bytes_and_outputs_are_nearly_equal(
    technique: HalfPrecision, tolerance: float, module: ModuleType
) -> None:
    original, data = module.state(), module.datasets().training_data
    result = technique.apply(original, data, quiet())
    assert result.graph is not None
    samples = module.split(100, seed=9).samples
    outputs = OnnxRunner(result.graph, threads=1)(samples)["logits"]
    expected = all_scores(original.network, samples).numpy()
    assert outputs.dtype == np.float32
    assert 0 < np.abs(outputs - expected).max() < tolerance * np.abs(expected).max()
    whole = _dense_size(module)
    size = onnx_size(result.graph)
    assert size.parameters == whole.parameters
    assert 0.5 < size.weight_bytes / whole.weight_bytes < 0.65
    assert result.notes == (f"weights stored in {technique.kind.upper()}: {result.notes[0][24:]}",)
    assert isinstance(result.conversion, Conversion)


def test_masked_weights_stay_zero() -> None:
    original, data = two_inputs.state(), two_inputs.datasets().training_data
    sparse = SparseNM().apply(original, data, quiet())
    zeros = sum(int((~mask).sum()) for mask in sparse.masks.values())
    result = Fp16().apply(sparse, data, quiet())
    assert result.graph is not None
    size = onnx_size(result.graph)
    assert zeros > 0
    assert size.parameters - size.nonzeros >= zeros
    assert result.notes[-1] == "layers stored with their zeros, since a graph cannot pack them: 1"

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from tests.small import quiet
from tests.variants import tiny, tiny_attention, tiny_conv, two_inputs
from variants.compression.quantization.fake import read_grids
from variants.compression.techniques.int8 import Int8
from variants.compression.techniques.n_m import SparseNM
from variants.measurement.size import onnx_size
from variants.model.dataset import Datasets, Split, TrainingData
from variants.model.forward import all_scores
from variants.model.loading import describe_interface
from variants.model.state import CompressionState
from variants.runtime.onnx import OnnxRunner

DATA = tiny.datasets().training_data


def quantized(module: ModuleType, **parameters: Any) -> CompressionState:
    """Return the quantized model of a test module; do not alter it, since tests share it."""
    return apply_once(module, Int8.model_validate(parameters))


@cache
def apply_once(module: ModuleType, technique: Int8) -> CompressionState:
    return technique.apply(module.state(), module.datasets().training_data, quiet())


def graph_of(state: CompressionState) -> onnx.GraphProto:
    assert state.graph is not None
    return onnx.load_model_from_string(state.graph).graph


def weights(state: CompressionState) -> dict[str, NDArray[np.int8]]:
    """Return the INT8 weights by parameter name; matrices may be transposed."""
    return {
        tensor.name.removesuffix("_quantized"): numpy_helper.to_array(tensor)
        for tensor in graph_of(state).initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    }


@pytest.mark.parametrize(
    ("module", "parameters", "layers"),
    [
        pytest.param(tiny, {"method": "minmax"}, 3, id="minmax"),
        pytest.param(tiny, {"method": "entropy"}, 3, id="entropy"),
        pytest.param(tiny, {"method": "percentile"}, 3, id="percentile"),
        pytest.param(tiny, {"mode": "dynamic"}, 3, id="dynamic"),
        pytest.param(tiny_conv, {}, 4, id="convolutions"),
        pytest.param(two_inputs, {}, 3, id="two inputs, an embedding"),
        pytest.param(two_inputs, {"mode": "dynamic"}, 3, id="two inputs, dynamic"),
        pytest.param(tiny_attention, {"mode": "dynamic"}, 14, id="attention"),
        pytest.param(tiny_attention, {"per_channel": False}, 14, id="attention, static"),
    ],
)
def test_weights_are_int8_and_outputs_are_nearly_equal(
    module: ModuleType, parameters: dict[str, Any], layers: int
) -> None:
    int8 = quantized(module, **parameters)
    assert int8.graph is not None
    assert len(weights(int8)) == layers
    samples = module.split(200, seed=9).samples
    outputs = OnnxRunner(int8.graph, threads=1)(samples)["logits"]
    expected = all_scores(int8.network, samples).numpy()
    assert 0 < np.abs(outputs - expected).mean() < 0.03 * np.abs(expected).max()
    assert outputs.dtype == np.float32


def test_texts_of_any_length_are_accepted() -> None:
    int8 = quantized(two_inputs)
    assert int8.graph is not None
    samples = two_inputs.split(20, seed=9, tokens=5).samples
    outputs = OnnxRunner(int8.graph, threads=1)(samples)["logits"]
    assert outputs == pytest.approx(all_scores(int8.network, samples).numpy(), abs=0.02)


def test_scores_are_not_rounded_to_256_values() -> None:
    for module in (tiny, tiny_conv):
        int8 = quantized(module)
        assert int8.graph is not None
        samples = module.split(2000, seed=9).samples
        outputs = OnnxRunner(int8.graph, threads=1)(samples)["logits"]
        assert len(np.unique(outputs)) > 1000


def test_products_of_activations_stay_in_fp32() -> None:
    for mode in ("static", "dynamic"):
        nodes = graph_of(quantized(tiny_attention, mode=mode)).node
        producers = {output: node for node in nodes for output in node.output}
        products = [
            node
            for node in nodes
            if node.op_type == "MatMul" and producers[node.input[1]].op_type != "DequantizeLinear"
        ]
        assert len(products) == 2 * tiny_attention.LAYERS
        assert all(producers[p.input[0]].op_type != "DequantizeLinear" for p in products)


@pytest.mark.parametrize(("reduce_range", "largest"), [(True, 64), (False, 127)])
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_reduce_range_stores_weights_in_7_bits(mode: str, reduce_range: bool, largest: int) -> None:
    int8 = quantized(tiny, mode=mode, reduce_range=reduce_range)
    assert {np.abs(weight.astype(int)).max() for weight in weights(int8).values()} == {largest}
    assert f"weights of {7 if reduce_range else 8} bits" in int8.notes[0]


AVX2, VNNI = ("avx2",), ("avx2", "avx_vnni")
SLOWER = "weights of 8 bits, which are slower than 7 on this processor, since it lacks VNNI"


@pytest.mark.parametrize(
    ("requested", "flags", "is_reduced", "note"),
    [
        pytest.param(None, AVX2, True, "weights of 7 bits", id="automatic, without VNNI"),
        pytest.param(None, VNNI, False, "weights of 8 bits", id="automatic, with VNNI"),
        pytest.param(True, AVX2, True, "weights of 7 bits", id="7 bits, without VNNI"),
        pytest.param(True, VNNI, True, "weights of 7 bits", id="7 bits, with VNNI"),
        pytest.param(False, AVX2, False, SLOWER, id="8 bits, without VNNI"),
        pytest.param(False, VNNI, False, "weights of 8 bits", id="8 bits, with VNNI"),
    ],
)
def test_the_processor_decides_the_bits_of_weights_unless_reduce_range_is_set(
    requested: bool | None, flags: tuple[str, ...], is_reduced: bool, note: str
) -> None:
    technique = Int8(reduce_range=requested)
    assert technique.weight_format(flags).reduce_range is is_reduced
    assert technique.describe_weights(flags) == note


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_masked_weights_stay_zero_in_the_graph_and_only_dynamic_int8_is_packed(mode: Any) -> None:
    sparse = SparseNM().apply(tiny.state(), DATA, quiet())
    int8 = Int8(mode=mode).apply(sparse, DATA, quiet())
    stored = weights(int8)
    for name, mask in sparse.masks.items():
        weight = stored[name].T if mode == "dynamic" else stored[name]
        assert (weight[~mask.numpy()] == 0).all()
        assert (weight[mask.numpy()] != 0).mean() > 0.9
    unpacked = "layers stored with their zeros, since a graph cannot pack them: 2"
    assert (int8.notes[-1] == unpacked) == (mode == "static")
    assert any(note.startswith("INT8 graph: ") for note in int8.notes) == (mode == "dynamic")


def test_an_excluded_layer_stays_in_fp32() -> None:
    for mode in ("static", "dynamic"):
        int8 = quantized(two_inputs, mode=mode, exclude=["emb*", "head"])
        assert weights(int8).keys() == {"hidden.weight"}
        assert "layer embedding stays in FP32: excluded" in int8.notes
        types = Counter(tensor.data_type for tensor in graph_of(int8).initializer)
        assert types[onnx.TensorProto.INT8] == 2  # the weight and its zero point


def test_a_pattern_that_matches_no_layer_raises() -> None:
    with pytest.raises(
        ValueError, match="'tail' matches no layer; the layers are embedding, hidden"
    ):
        quantized(two_inputs, exclude=["tail"])
    with pytest.raises(ValueError, match="there is no layer to quantize: all are excluded"):
        quantized(two_inputs, exclude=["*"])


def test_dynamic_mode_raises_for_a_convolutional_network() -> None:
    with pytest.raises(ValueError, match=r"convolutions do 100% .* set mode: static"):
        quantized(tiny_conv, mode="dynamic")


def test_auto_compares_calibration_methods_on_held_out_samples() -> None:
    int8 = quantized(tiny_conv, method="auto", samples=100)
    assert int8.notes[0].endswith("60 calibration samples")  # half of the 120
    assert "agreement with FP32 on 60 held-out samples: minmax " in int8.notes[1]
    assert ", entropy " in int8.notes[1]
    best = int8.notes[1].split(";")[0].removeprefix("ranges by ")
    alone = quantized(tiny_conv, method=best, samples=60)
    assert weights(alone).keys() == weights(int8).keys()


def test_the_layer_that_loses_the_most_accuracy_stays_in_fp32() -> None:
    original = tiny.state()
    # One input is 1000 times larger than the others and its weights 1000 times smaller. The scale
    # of the quantized inputs then rounds the others to zero.
    samples = {"input": DATA.validation.samples["input"].copy()}
    samples["input"][:, 7] *= 1000
    original.network.get_parameter("0.weight").data[:, 7] /= 1000
    labels = all_scores(original.network, samples).argmax(1).numpy()
    data = TrainingData(DATA.train, Split(samples, labels))
    int8 = Int8(max_drop=0.05).apply(original, data, quiet())
    assert int8.notes[1].startswith("layer 0 stays in FP32: the signal-to-noise ratio is ")
    assert weights(int8).keys() == {"2.weight", "4.weight"}
    assert "against FP32, on 60 held-out validation samples" in int8.notes[2]
    all_int8 = Int8().apply(original, data, quiet())
    assert all_int8.graph is not None
    assert int8.graph is not None
    accuracies = [
        float((OnnxRunner(g, threads=1)(samples)["logits"].argmax(1) == labels).mean())
        for g in (all_int8.graph, int8.graph)
    ]
    assert accuracies[0] < 0.9 < accuracies[1]


def test_scales_count_as_bytes_but_not_as_parameters() -> None:
    for mode in ("static", "dynamic"):
        int8 = quantized(two_inputs, mode=mode)
        assert int8.graph is not None
        size = onnx_size(int8.graph)
        parameters = sum(p.numel() for p in int8.network.parameters())
        assert size.parameters == parameters + 1  # plus the bound of a clamp
        assert size.nonzeros > 0.95 * parameters
        assert size.weight_bytes > parameters


def test_export_and_calibration_print_nothing_and_do_not_warn() -> None:
    code = """if True:
        from tests.small import quiet
        from tests.variants import tiny
        from variants.compression.techniques.int8 import Int8
        data = tiny.datasets().training_data
        Int8(method="auto", samples=8, held_out=8).apply(tiny.state(), data, quiet())
        Int8(mode="dynamic", samples=8).apply(tiny.state(), data, quiet())
    """
    command = [sys.executable, "-W", "error", "-c", code]
    process = subprocess.run(command, capture_output=True, check=False, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


class CalledTwice(nn.Module):
    """A square layer with two calls, whose transposed weight would fit as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, input: Tensor) -> Tensor:
        hidden = self.shared(self.shared(self.first(input).relu()).relu())
        return torch.as_tensor(self.last(hidden.relu()))


class EmbeddingIntoLinear(nn.Module):
    """A Linear layer that reads an embedding directly, and one whose weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner = nn.Embedding(20, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, input: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.inner(self.table(input)).relu().mean(1)))


def _data(module: nn.Module, inputs: NDArray[Any]) -> TrainingData:
    scores = all_scores(module, {"input": inputs}).numpy()
    split = Split({"input": inputs}, scores.argmax(axis=1))
    return Datasets(train=split, validation=split, test=split).training_data


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("make", [CalledTwice, EmbeddingIntoLinear])
def test_layers_that_share_weights_or_follow_an_embedding_are_right(
    make: type[nn.Module], mode: str
) -> None:
    torch.manual_seed(0)
    network, rng = make().eval(), np.random.default_rng(0)
    inputs = (
        rng.standard_normal((200, 8)).astype(np.float32)
        if make is CalledTwice
        else rng.integers(0, 20, (200, 6))
    )
    interface = describe_interface(network, {"input": inputs}, {})
    state = CompressionState(network, interface, dense=network)
    int8 = Int8.model_validate({"mode": mode}).apply(state, _data(network, inputs), quiet())
    assert int8.graph is not None
    actual = OnnxRunner(int8.graph, threads=1)({"input": inputs})[interface.outputs[0].name]
    expected = all_scores(network, {"input": inputs}).numpy()
    assert 0 < np.abs(actual - expected).mean() < 0.03 * np.abs(expected).max()
    assert not any("stays in FP32" in note for note in int8.notes)


def test_a_layer_with_two_calls_is_simulated_with_a_grid_over_both() -> None:
    torch.manual_seed(0)
    network = CalledTwice().eval()
    inputs = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    state = CompressionState(
        network, describe_interface(network, {"input": inputs}, {}), dense=network
    )
    int8 = Int8().apply(state, _data(network, inputs), quiet())
    assert int8.graph is not None
    grids = read_grids(int8.graph)
    with torch.inference_mode():
        first = network.first(torch.from_numpy(inputs)).relu()
        second = network.shared(first).relu()
    grid = grids["shared"]
    assert grid is not None
    largest = grid.scale * (255 - grid.zero_point)
    assert largest == pytest.approx(max(first.max().item(), second.max().item()), rel=0.01)

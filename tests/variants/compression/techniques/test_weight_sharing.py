from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from tests.small import quiet
from tests.variants import tiny, tiny_conv, two_inputs
from variants.compression.export import export
from variants.compression.quantization.shared_weights import find_codebooks
from variants.compression.techniques.n_m import SparseNM
from variants.compression.techniques.recovery import Recover
from variants.compression.techniques.weight_sharing import WeightSharing
from variants.measurement.size import onnx_size
from variants.model.loading import describe_interface
from variants.model.state import CompressionState
from variants.runtime.onnx import OnnxRunner

DATA = tiny.datasets().training_data
WIDE = 96


def _wide() -> CompressionState:
    """Return the tiny state with a middle layer wide enough for codes to make it smaller."""
    original = tiny.state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        original.network.set_submodule("0", torch.nn.Linear(tiny.INPUTS, WIDE))
        original.network.set_submodule("2", torch.nn.Linear(WIDE, tiny.HIDDEN))
    return original


def _shared(result: CompressionState) -> dict[str, np.ndarray]:
    assert result.graph is not None
    codebooks = find_codebooks(onnx.load_model_from_string(result.graph).graph)
    return {name: weight.codebook.decode() for name, weight in codebooks.items()}


def test_outputs_equal_those_of_the_network_with_shared_values() -> None:
    original = _wide()
    result = WeightSharing(values=16).apply(original, DATA, quiet())
    decoded = _shared(result)
    assert set(decoded) == {"0.weight", "2.weight"}
    for name, weight in decoded.items():
        assert len(np.unique(weight)) <= 16
        original.network.get_parameter(name).data = torch.from_numpy(weight)
    samples = tiny.split(50, seed=9).samples
    assert result.graph is not None
    answers = OnnxRunner(result.graph, threads=1)(samples)["logits"]
    np.testing.assert_allclose(answers, tiny.answers(original.network, samples), atol=1e-5)


def test_more_values_are_closer_and_take_more_bytes() -> None:
    original = _wide()
    dense = export(original.network, DATA.validation.samples, original.interface)
    plain = onnx_size(dense.SerializeToString())
    errors, sizes = [], []
    for values in (4, 16, 256):
        result = WeightSharing(values=values, exclude=("0", "4")).apply(original, DATA, quiet())
        weight = original.network.get_parameter("2.weight").detach().numpy()
        errors.append(np.abs(_shared(result)["2.weight"] - weight).max())
        assert result.graph is not None
        sizes.append(onnx_size(result.graph))
    assert errors[0] > errors[1] > errors[2] > 0
    assert {size.parameters for size in sizes} == {plain.parameters}
    count = WIDE * tiny.HIDDEN
    saved = [plain.weight_bytes - size.weight_bytes for size in sizes]
    assert saved == [
        4 * count - (count // 2 + 4 * 4),
        4 * count - (count // 2 + 16 * 4),
        4 * count - (count + 256 * 4),
    ]


def test_the_note_states_the_error_of_the_weights() -> None:
    original = _wide()
    result = WeightSharing(values=4, exclude=("0",)).apply(original, DATA, quiet())
    weight = original.network.get_parameter("2.weight").detach().numpy()
    errors = np.sqrt(
        np.square(_shared(result)["2.weight"] - weight).sum() / np.square(weight).sum()
    )
    assert result.notes == (
        "weights stored as codes: 1, of at most 4 values each; "
        f"relative root mean square error {errors:.2%}",
    )


def test_masked_weights_stay_zero() -> None:
    sparse = SparseNM().apply(_wide(), DATA, quiet())
    recovered = Recover(epochs=1, batch_size=100).apply(sparse, DATA, quiet())
    decoded = _shared(WeightSharing(values=16).apply(recovered, DATA, quiet()))
    for name, weight in decoded.items():
        np.testing.assert_array_equal(weight != 0, recovered.masks[name].numpy())


def test_equal_networks_give_equal_bytes() -> None:
    first, again = (WeightSharing(values=16).apply(tiny.state(), DATA, quiet()) for _ in range(2))
    assert first.graph == again.graph


def test_weights_of_convolutions_are_shared() -> None:
    data = tiny_conv.datasets().training_data
    result = WeightSharing(values=16).apply(tiny_conv.state(), data, quiet())
    assert set(_shared(result)) == {"stem.weight", "widen.weight", "narrow.weight"}


def test_a_model_of_two_inputs_accepts_texts_of_another_length() -> None:
    original = two_inputs.state()
    data = two_inputs.datasets().training_data
    result = WeightSharing(values=16, exclude=("head",)).apply(original, data, quiet())
    decoded = _shared(result)
    assert "embedding.weight" in decoded
    for name, weight in decoded.items():
        original.network.get_parameter(name).data = torch.from_numpy(weight)
    samples = two_inputs.split(20, seed=5, tokens=7).samples
    assert result.graph is not None
    answers = OnnxRunner(result.graph, threads=1)(samples)["logits"]
    np.testing.assert_allclose(answers, tiny.answers(original.network, samples), atol=1e-5)


class _Tokens(torch.nn.Module):
    """Linear over `[n, 2, 8]`, whose weight the exporter transposes and renames."""

    def __init__(self) -> None:
        super().__init__()
        self.each = torch.nn.Linear(8, 64)
        self.head = torch.nn.Linear(64, 64)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(
            self.each(values.reshape(-1, 2, 4).repeat(1, 1, 2)).mean(1)
        )
        return logits


def test_exclude_matches_a_weight_that_the_exporter_renamed() -> None:
    torch.manual_seed(0)
    network = _Tokens().eval()
    original = CompressionState(
        network, describe_interface(network, tiny.split(4).samples, {}), dense=network
    )
    both = _shared(WeightSharing(values=16).apply(original, DATA, quiet()))
    assert set(both) == {"each.weight", "head.weight"}
    assert both["each.weight"].shape == (8, 64)
    left = _shared(WeightSharing(values=16, exclude=("each",)).apply(original, DATA, quiet()))
    assert set(left) == {"head.weight"}


class _Scaled(torch.nn.Module):
    """Has a buffer of constants between two layers, as large as their weights."""

    table: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(tiny.INPUTS, 64)
        self.register_buffer("table", torch.randn(64, 64))
        self.head = torch.nn.Linear(64, 3)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(values).relu() @ self.table)
        return logits


def test_constants_are_not_shared() -> None:
    torch.manual_seed(0)
    network = _Scaled().eval()
    original = CompressionState(
        network, describe_interface(network, tiny.split(4).samples, {}), dense=network
    )
    shared = _shared(WeightSharing(values=16).apply(original, DATA, quiet()))
    assert set(shared) == {"body.weight", "head.weight"}


def test_a_pattern_that_matches_no_layer_raises() -> None:
    with pytest.raises(ValueError, match="'5' matches no layer; the layers are 0, 2, 4"):
        WeightSharing(exclude=("5",)).apply(tiny.state(), DATA, quiet())


def test_if_no_weight_can_be_shared_the_error_says_why() -> None:
    with pytest.raises(ValueError, match="found no weight that codes make smaller"):
        WeightSharing(exclude=("*",)).apply(tiny.state(), DATA, quiet())

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
from variants.model.loading import describe
from variants.model.state import CompressionState
from variants.runtime.onnx import OnnxRunner

DATA = tiny.datasets().training_data
WIDE = 96


def _wide() -> CompressionState:
    """tiny's, with its middle layer wide enough for codes of one byte to pay."""
    given = tiny.state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        given.network.set_submodule("0", torch.nn.Linear(tiny.INPUTS, WIDE))
        given.network.set_submodule("2", torch.nn.Linear(WIDE, tiny.HIDDEN))
    return given


def _shared(made: CompressionState) -> dict[str, np.ndarray]:
    assert made.graph is not None
    found = find_codebooks(onnx.load_model_from_string(made.graph).graph)
    return {name: weight.book.decode() for name, weight in found.items()}


def test_answers_are_those_of_the_network_with_its_weights_replaced() -> None:
    given = _wide()
    made = WeightSharing(values=16).apply(given, DATA, quiet())
    decoded = _shared(made)
    assert set(decoded) == {"0.weight", "2.weight"}
    for name, weight in decoded.items():
        assert len(np.unique(weight)) <= 16
        given.network.get_parameter(name).data = torch.from_numpy(weight)
    samples = tiny.split(50, seed=9).samples
    assert made.graph is not None
    answers = OnnxRunner(made.graph, threads=1)(samples)["logits"]
    np.testing.assert_allclose(answers, tiny.answers(given.network, samples), atol=1e-5)


def test_more_values_are_nearer_and_bigger() -> None:
    given = _wide()
    dense = export(given.network, DATA.validation.samples, given.interface)
    plain = onnx_size(dense.SerializeToString())
    off, sizes = [], []
    for values in (4, 16, 256):
        made = WeightSharing(values=values, exclude=("0", "4")).apply(given, DATA, quiet())
        weight = given.network.get_parameter("2.weight").detach().numpy()
        off.append(np.abs(_shared(made)["2.weight"] - weight).max())
        assert made.graph is not None
        sizes.append(onnx_size(made.graph))
    assert off[0] > off[1] > off[2] > 0
    assert {size.parameters for size in sizes} == {plain.parameters}
    count = WIDE * tiny.HIDDEN
    saved = [plain.weight_bytes - size.weight_bytes for size in sizes]
    assert saved == [
        4 * count - (count // 2 + 4 * 4),
        4 * count - (count // 2 + 16 * 4),
        4 * count - (count + 256 * 4),
    ]


def test_the_note_says_how_far_off_the_weights_are() -> None:
    given = _wide()
    made = WeightSharing(values=4, exclude=("0",)).apply(given, DATA, quiet())
    weight = given.network.get_parameter("2.weight").detach().numpy()
    off = np.sqrt(np.square(_shared(made)["2.weight"] - weight).sum() / np.square(weight).sum())
    assert made.notes == (
        "weights stored as codes: 1, of at most 4 values each; they "
        f"differ by {off:.2%} of their size (root mean square)",
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


def test_convolutions_are_shared_too() -> None:
    data = tiny_conv.datasets().training_data
    made = WeightSharing(values=16).apply(tiny_conv.state(), data, quiet())
    assert set(_shared(made)) == {"stem.weight", "widen.weight", "narrow.weight"}


def test_a_model_of_two_inputs_still_takes_texts_of_another_length() -> None:
    given = two_inputs.state()
    data = two_inputs.datasets().training_data
    made = WeightSharing(values=16, exclude=("head",)).apply(given, data, quiet())
    decoded = _shared(made)
    assert "embedding.weight" in decoded
    for name, weight in decoded.items():
        given.network.get_parameter(name).data = torch.from_numpy(weight)
    samples = two_inputs.split(20, seed=5, tokens=7).samples
    assert made.graph is not None
    answers = OnnxRunner(made.graph, threads=1)(samples)["logits"]
    np.testing.assert_allclose(answers, tiny.answers(given.network, samples), atol=1e-5)


class _Tokens(torch.nn.Module):
    """Over `[n, 2, 8]`: the exporter turns such a layer's weight around and renames it."""

    def __init__(self) -> None:
        super().__init__()
        self.each = torch.nn.Linear(8, 64)
        self.head = torch.nn.Linear(64, 64)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(
            self.each(values.reshape(-1, 2, 4).repeat(1, 1, 2)).mean(1)
        )
        return logits


def test_exclude_knows_a_weight_that_the_exporter_renamed() -> None:
    torch.manual_seed(0)
    network = _Tokens().eval()
    given = CompressionState(network, describe(network, tiny.split(4).samples, {}), dense=network)
    both = _shared(WeightSharing(values=16).apply(given, DATA, quiet()))
    assert set(both) == {"each.weight", "head.weight"}
    assert both["each.weight"].shape == (8, 64)
    left = _shared(WeightSharing(values=16, exclude=("each",)).apply(given, DATA, quiet()))
    assert set(left) == {"head.weight"}


class _Scaled(torch.nn.Module):
    """A table of constants between two layers, as large as they are."""

    table: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(tiny.INPUTS, 64)
        self.register_buffer("table", torch.randn(64, 64))
        self.head = torch.nn.Linear(64, 3)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(values).relu() @ self.table)
        return logits


def test_a_table_of_constants_is_no_weight() -> None:
    torch.manual_seed(0)
    network = _Scaled().eval()
    given = CompressionState(network, describe(network, tiny.split(4).samples, {}), dense=network)
    shared = _shared(WeightSharing(values=16).apply(given, DATA, quiet()))
    assert set(shared) == {"body.weight", "head.weight"}


def test_exclude_refuses_a_name_that_no_layer_has() -> None:
    with pytest.raises(ValueError, match="no layer is called '5'; there are 0, 2, 4"):
        WeightSharing(exclude=("5",)).apply(tiny.state(), DATA, quiet())


def test_with_nothing_to_share_it_says_so() -> None:
    with pytest.raises(ValueError, match="found no weight that codes make smaller"):
        WeightSharing(exclude=("*",)).apply(tiny.state(), DATA, quiet())

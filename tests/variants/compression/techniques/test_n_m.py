from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.small import quiet
from tests.variants import tiny, tiny_conv, two_inputs
from variants.catalog.recipe import Step
from variants.compression.sparsity.criteria import Criterion
from variants.compression.techniques import resolve
from variants.compression.techniques.activation import ActivationPruning
from variants.compression.techniques.n_m import SparseNM
from variants.compression.techniques.recovery import Recover
from variants.compression.techniques.unstructured import Unstructured
from variants.model.dataset import TrainingData
from variants.model.loading import describe_interface
from variants.model.state import CompressionState
from variants.runtime.linear24 import mask24
from variants.runtime.plan import make_plan

DATA = tiny.datasets().training_data


def test_2_of_4_weights_are_masked_and_the_head_is_skipped() -> None:
    sparse = SparseNM().apply(tiny.state(), DATA, quiet())
    assert sparse.packed == {"0", "2"}
    assert sparse.notes == ("layer 4 stays dense: 3 outputs are fewer than min_rows = 16",)
    dense = tiny.network().state_dict()
    for name, weight in sparse.network.state_dict().items():
        expected = mask24(dense[name]) * dense[name] if name in sparse.masks else dense[name]
        assert torch.equal(weight, expected)


def test_the_head_is_masked_if_min_rows_allows_it() -> None:
    sparse = SparseNM(min_rows=1).apply(tiny.state(), DATA, quiet())
    assert sparse.packed == {"0", "2", "4"}


def test_excluded_layers_are_not_masked() -> None:
    sparse = SparseNM(exclude=("2",)).apply(tiny.state(), DATA, quiet())
    assert sparse.masks.keys() == {"0.weight"}


def test_if_no_layer_can_be_masked_the_error_says_why() -> None:
    with pytest.raises(ValueError, match="applied to any layer: layer 0 stays dense: 16 outputs"):
        SparseNM(min_rows=100).apply(tiny.state(), DATA, quiet())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n": 4}, "m: .*must be larger than n"),
        ({"n": 4, "m": 4}, "m: .*must be larger than n, which is 4"),
        ({"m": 1}, "m: .*at least 2"),
        ({"criterion": "luck"}, "criterion: .*'magnitude', 'gradient'"),
    ],
)
def test_invalid_parameters_raise(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(Step(technique="sparse-n:m", parameters=parameters))


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8)])
@pytest.mark.parametrize("criterion", get_args(Criterion))
def test_any_criterion_keeps_n_of_m_channels_at_every_kernel_position(
    criterion: Criterion, n: int, m: int
) -> None:
    technique = SparseNM(n=n, m=m, criterion=criterion, min_rows=4, samples=64)
    result = technique.apply(tiny_conv.state(), tiny_conv.datasets().training_data, quiet())
    assert result.masks.keys() == {"widen.weight", "narrow.weight", "head.weight"}
    assert result.notes == (f"layer stem stays dense: 3 inputs are not a multiple of {m}",)
    for name, mask in result.masks.items():
        weight = result.network.get_parameter(name)
        assert mask.shape == weight.shape
        assert torch.equal(weight != 0, mask)
        groups = mask.reshape(len(mask), -1, m, *mask.shape[2:])
        assert (groups.sum(dim=2) == n).all()
    assert result.packed == ({"head"} if m == 4 else set())


def test_packed_layers_can_be_packed() -> None:
    result = SparseNM(criterion="sparsegpt").apply(tiny.state(), DATA, quiet())
    layers, _ = make_plan(result.network, result.packed)  # raises for a weight that is not 2:4
    assert layers.layers["2"].kind == "linear-2:4"


def test_a_network_of_two_inputs_of_variable_length_is_masked() -> None:
    result = SparseNM(criterion="wanda").apply(
        two_inputs.state(), two_inputs.datasets().training_data, quiet()
    )
    assert result.packed == {"hidden"}


def _groups_left(result: CompressionState) -> Tensor:
    return result.masks["2.weight"].reshape(-1, 4).sum(dim=1)


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "sparsegpt"])
def test_weights_that_were_masked_before_stay_masked(criterion: Criterion) -> None:
    first = Unstructured(share=0.6).apply(tiny.state(), DATA, quiet())
    result = SparseNM(criterion=criterion).apply(first, DATA, quiet())
    for name, mask in first.masks.items():
        assert not (result.masks[name] & ~mask).any()
        assert (result.network.get_parameter(name)[~result.masks[name]] == 0).all()
    assert _groups_left(result).max() == 2
    assert _groups_left(result).min() == 0  # masked weights are not restored to fill a group
    assert result.packed == {"0", "2"}


def test_repeating_2_of_4_changes_nothing() -> None:
    first = SparseNM().apply(tiny.state(), DATA, quiet())
    again = SparseNM(permute=True).apply(first, DATA, quiet())
    assert all(torch.equal(again.masks[name], first.masks[name]) for name in first.masks)
    assert "inputs of layer 2 keep their order: the layer is masked already" in again.notes


def test_1_of_4_after_2_of_4_is_still_packed_as_2_of_4() -> None:
    first = SparseNM().apply(tiny.state(), DATA, quiet())
    fewer = SparseNM(n=1).apply(first, DATA, quiet())
    assert _groups_left(fewer).max() == 1
    assert fewer.packed == {"0", "2"}


def test_activation_pruning_then_sparsity_then_recovery() -> None:
    pruned = ActivationPruning(mean_below=0.2, deviation_below=0.3).apply(
        tiny.state(), DATA, quiet()
    )
    left = pruned.network[2].out_features  # type: ignore[index]
    assert left < tiny.HIDDEN
    sparse = SparseNM(min_rows=4).apply(pruned, DATA, quiet())
    recovered = Recover(epochs=2, batch_size=32).apply(sparse, DATA, quiet())
    assert recovered.masks["0.weight"].shape[0] == pruned.network[0].out_features  # type: ignore[index]
    for name, mask in recovered.masks.items():
        assert torch.equal(recovered.network.get_parameter(name) != 0, mask)


def _uneven() -> CompressionState:
    """Return a network in which the largest weights of the second layer share groups."""
    network = tiny.network()
    with torch.no_grad():
        network.get_parameter("2.weight")[:, :8] *= 4
    return CompressionState(
        network, describe_interface(network, DATA.train.samples, {}), dense=network
    )


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_masks_of_reordered_inputs_change_outputs_less(
    criterion: Criterion,
) -> None:
    original = _uneven()
    plain, permuted = (
        SparseNM(criterion=criterion, permute=permute).apply(original, DATA, quiet())
        for permute in (False, True)
    )
    expected = tiny.answers(original.network, DATA.validation.samples)
    errors = [
        np.abs(tiny.answers(result.network, DATA.validation.samples) - expected).mean()
        for result in (plain, permuted)
    ]
    assert errors[1] < 0.8 * errors[0]
    notes = [note for note in permuted.notes if note.startswith("inputs of")]
    assert notes[0] == "inputs of layer 0 keep their order: no single layer produces them"
    assert notes[1].startswith("inputs of layer 2 are reordered: ")
    assert permuted.packed == plain.packed
    assert set(_groups_left(permuted).tolist()) == {2}


def test_reordering_permutes_the_rows_of_the_layer_before() -> None:
    original = _uneven()
    result = SparseNM(permute=True).apply(original, DATA, quiet())
    kept = result.masks["2.weight"].float()
    before = original.network.state_dict()
    bias = result.network.get_parameter("0.bias")
    order = torch.stack([(before["0.bias"] == value).nonzero()[0, 0] for value in bias])
    assert order.tolist() != list(range(tiny.HIDDEN))
    assert torch.equal(
        result.network.get_parameter("2.weight"), before["2.weight"][:, order] * kept
    )
    magnitude = before["2.weight"].abs()
    assert (magnitude[:, order] * kept).sum() > 1.1 * (magnitude * mask24(magnitude)).sum()


class Peeking(nn.Module):
    """Uses the output of a layer twice, which its sequence does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16))

    def forward(self, features: Tensor) -> Tensor:
        first = self.body[0](features)
        result: Tensor = self.body(features) + first
        return result


def test_reordering_that_changes_outputs_raises() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Peeking().eval()
    data = TrainingData(DATA.train.part(0, 50), DATA.validation)
    original = replace(tiny.state(), network=network)
    with pytest.raises(ValueError, match=r"changed the outputs by .*; set permute: false"):
        SparseNM(permute=True).apply(original, data, quiet())

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
from variants.model.loading import describe
from variants.model.state import CompressionState
from variants.runtime.linear24 import mask24
from variants.runtime.plan import describe as plan

DATA = tiny.datasets().training_data


def test_two_of_four_are_masked_and_the_head_is_skipped() -> None:
    sparse = SparseNM().apply(tiny.state(), DATA, quiet())
    assert sparse.packed == {"0", "2"}
    assert sparse.notes == ("layer 4 stays dense: 3 outputs are fewer than min_rows = 16",)
    dense = tiny.network().state_dict()
    for name, weight in sparse.network.state_dict().items():
        expected = mask24(dense[name]) * dense[name] if name in sparse.masks else dense[name]
        assert torch.equal(weight, expected)


def test_the_head_is_taken_when_told() -> None:
    sparse = SparseNM(min_rows=1).apply(tiny.state(), DATA, quiet())
    assert sparse.packed == {"0", "2", "4"}


def test_layers_are_left_alone_when_told() -> None:
    sparse = SparseNM(exclude=("2",)).apply(tiny.state(), DATA, quiet())
    assert sparse.masks.keys() == {"0.weight"}


def test_with_nothing_to_do_it_says_why() -> None:
    with pytest.raises(ValueError, match="no layer to work on: layer 0 stays dense: 16 outputs"):
        SparseNM(min_rows=100).apply(tiny.state(), DATA, quiet())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n": 4}, "m: .*must be larger than n"),
        ({"n": 4, "m": 4}, "m: .*must be larger than n, which is 4"),
        ({"m": 1}, "m: .*greater than or equal to 2"),
        ({"criterion": "luck"}, "criterion: .*'magnitude', 'gradient'"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(
    parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(Step(technique="sparse-n:m", parameters=parameters))


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8)])
@pytest.mark.parametrize("criterion", get_args(Criterion))
def test_by_any_criterion_n_of_m_channels_stay_at_every_place_of_a_kernel(
    criterion: Criterion, n: int, m: int
) -> None:
    technique = SparseNM(n=n, m=m, criterion=criterion, min_rows=4, samples=64)
    made = technique.apply(tiny_conv.state(), tiny_conv.datasets().training_data, quiet())
    assert made.masks.keys() == {"widen.weight", "narrow.weight", "head.weight"}
    assert made.notes == (f"layer stem stays dense: 3 inputs are no multiple of {m}",)
    for name, mask in made.masks.items():
        weight = made.network.get_parameter(name)
        assert mask.shape == weight.shape
        assert torch.equal(weight != 0, mask)
        groups = mask.reshape(len(mask), -1, m, *mask.shape[2:])
        assert (groups.sum(dim=2) == n).all()
    assert made.packed == ({"head"} if (n, m) == (2, 4) else set())


def test_packed_layers_are_those_that_can_be_packed() -> None:
    made = SparseNM(criterion="sparsegpt").apply(tiny.state(), DATA, quiet())
    layers, _ = plan(made.network, made.packed)  # refuses a weight that is not 2:4
    assert layers.layers["2"].kind == "linear-2:4"


def test_two_inputs_of_variable_length_calibrate_too() -> None:
    made = SparseNM(criterion="wanda").apply(
        two_inputs.state(), two_inputs.datasets().training_data, quiet()
    )
    assert made.packed == {"hidden"}


def _groups_left(made: CompressionState) -> Tensor:
    return made.masks["2.weight"].reshape(-1, 4).sum(dim=1)


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "sparsegpt"])
def test_what_was_masked_before_stays_masked(criterion: Criterion) -> None:
    first = Unstructured(share=0.6).apply(tiny.state(), DATA, quiet())
    made = SparseNM(criterion=criterion).apply(first, DATA, quiet())
    for name, mask in first.masks.items():
        assert not (made.masks[name] & ~mask).any()
        assert (made.network.get_parameter(name)[~made.masks[name]] == 0).all()
    assert _groups_left(made).max() == 2
    assert _groups_left(made).min() == 0  # nothing is kept to fill a group up
    assert made.packed == {"0", "2"}


def test_another_2_of_4_changes_nothing() -> None:
    first = SparseNM().apply(tiny.state(), DATA, quiet())
    again = SparseNM(permute=True).apply(first, DATA, quiet())
    assert all(torch.equal(again.masks[name], first.masks[name]) for name in first.masks)
    assert "inputs of layer 2 keep their order: it is masked already" in again.notes


def test_fewer_of_a_group_can_still_be_packed_as_2_of_4() -> None:
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
    """A network in which the strong inputs of the second layer share groups."""
    network = tiny.network()
    with torch.no_grad():
        network.get_parameter("2.weight")[:, :8] *= 4
    return CompressionState(network, describe(network, DATA.train.samples, {}), dense=network)


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_reordered_inputs_keep_more_and_change_no_answer_by_themselves(
    criterion: Criterion,
) -> None:
    given = _uneven()
    plain, permuted = (
        SparseNM(criterion=criterion, permute=permute).apply(given, DATA, quiet())
        for permute in (False, True)
    )
    expected = tiny.answers(given.network, DATA.validation.samples)
    off = [
        np.abs(tiny.answers(made.network, DATA.validation.samples) - expected).mean()
        for made in (plain, permuted)
    ]
    assert off[1] < 0.8 * off[0]
    notes = [note for note in permuted.notes if note.startswith("inputs of")]
    assert notes[0] == "inputs of layer 0 keep their order: no layer writes only them"
    assert notes[1].startswith("inputs of layer 2 are reordered: ")
    assert permuted.packed == plain.packed
    assert set(_groups_left(permuted).tolist()) == {2}


def test_reordering_moves_the_rows_of_the_layer_before() -> None:
    given = _uneven()
    made = SparseNM(permute=True).apply(given, DATA, quiet())
    kept = made.masks["2.weight"].float()
    before = given.network.state_dict()
    bias = made.network.get_parameter("0.bias")
    order = torch.stack([(before["0.bias"] == value).nonzero()[0, 0] for value in bias])
    assert order.tolist() != list(range(tiny.HIDDEN))
    assert torch.equal(made.network.get_parameter("2.weight"), before["2.weight"][:, order] * kept)
    magnitude = before["2.weight"].abs()
    assert (magnitude[:, order] * kept).sum() > 1.1 * (magnitude * mask24(magnitude)).sum()


class Peeking(nn.Module):
    """Uses one layer's output twice, which its sequence does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16))

    def forward(self, features: Tensor) -> Tensor:
        first = self.body[0](features)
        result: Tensor = self.body(features) + first
        return result


def test_a_network_that_hides_how_it_uses_its_layers_is_not_reordered() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Peeking().eval()
    data = TrainingData(DATA.train.part(0, 50), DATA.validation)
    given = replace(tiny.state(), network=network)
    with pytest.raises(ValueError, match=r"changed the answers by .*; set permute: false"):
        SparseNM(permute=True).apply(given, data, quiet())

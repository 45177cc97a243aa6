from __future__ import annotations

import copy

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tests.small import quiet
from tests.variants import tiny, tiny_conv, two_inputs
from variants.catalog.recipe import Step
from variants.compression.techniques import resolve
from variants.compression.techniques.low_rank import LowRankFactors
from variants.compression.techniques.n_m import SparseNM
from variants.model.dataset import Split, TrainingData
from variants.model.loading import describe
from variants.model.state import CompressionState
from variants.runtime import plan
from variants.runtime.low_rank import Decomposition, LowRank, break_even, replacement

DATA = tiny.datasets().training_data


def _weight(out: int = 20, inputs: int = 12) -> Tensor:
    return torch.randn(out, inputs, generator=torch.Generator().manual_seed(0))


def _product(decomposition: Decomposition, rank: int) -> Tensor:
    first, second = decomposition.factors(rank)
    return second @ first


def _correlated(count: int = 500, inputs: int = 12) -> Tensor:
    """Inputs that lie near 3 directions, the last of them always 0: moments are singular."""
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(3, inputs, generator=generator) * torch.tensor([[5.0], [2.0], [1.0]])
    samples = torch.randn(count, 3, generator=generator) @ directions
    samples += 0.1 * torch.randn(count, inputs, generator=generator)
    samples[:, -1] = 0
    return samples


def _moments(samples: Tensor) -> Tensor:
    return (samples.double().T @ samples.double()) / len(samples)


@pytest.mark.parametrize("shape", [(20, 12), (12, 20), (12, 12)])
def test_full_rank_is_the_weight(shape: tuple[int, int]) -> None:
    weight = _weight(*shape)
    torch.testing.assert_close(_product(Decomposition.of(weight), 12), weight)


def test_full_rank_is_the_weight_for_the_inputs_that_moments_know() -> None:
    weight, samples = _weight(), _correlated()
    product = _product(Decomposition.of(weight, _moments(samples)), 12)
    torch.testing.assert_close(samples @ product.T, samples @ weight.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rank", [1, 4, 11])
def test_the_error_is_what_the_discarded_singular_values_say(rank: int) -> None:
    """Eckart and Young 1936: no matrix of that rank is nearer."""
    weight = _weight()
    off = (weight - _product(Decomposition.of(weight), rank)).double().square().sum()
    discarded = torch.linalg.svdvals(weight.double())[rank:].square().sum()
    torch.testing.assert_close(off, discarded, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_with_moments_the_discarded_values_say_the_error_of_the_output(rank: int) -> None:
    weight, samples = _weight(), _correlated()
    decomposition = Decomposition.of(weight, _moments(samples))
    off = (samples @ (weight - _product(decomposition, rank)).T).double().square()
    discarded = decomposition.singular[rank:].square().sum()
    torch.testing.assert_close(off.sum(1).mean(), discarded, rtol=1e-3, atol=0)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_on_correlated_inputs_whitening_has_the_lower_output_error(rank: int) -> None:
    weight, samples = _weight(), _correlated()
    plain, whitened = (
        float((samples @ (weight - _product(decomposition, rank)).T).norm())
        for decomposition in (Decomposition.of(weight), Decomposition.of(weight, _moments(samples)))
    )
    assert whitened < 0.6 * plain


@pytest.mark.parametrize("bias", [True, False])
def test_a_bias_makes_up_for_what_is_lost_at_the_mean(bias: bool) -> None:
    linear, samples = nn.Linear(12, 20, bias=bias), _correlated() + 3
    mean = samples.double().mean(dim=0)
    decomposition = Decomposition.of(linear.weight, _moments(samples - mean.float()))
    with torch.no_grad():
        off = linear(samples) - replacement(linear, decomposition, 2, mean)(samples)
    assert (off.mean(dim=0).abs().max() < 1e-4) == bias
    if bias:
        spread = off.double().square().sum(dim=1).mean()
        expected = decomposition.singular[2:].square().sum()
        torch.testing.assert_close(spread, expected, rtol=1e-3, atol=0)


def test_both_factors_have_directions_of_one_length() -> None:
    first, second = Decomposition.of(_weight()).factors(5)
    torch.testing.assert_close(first.norm(dim=1), second.norm(dim=0))


def test_a_rank_keeps_the_energy_and_one_less_does_not() -> None:
    decomposition = Decomposition(torch.zeros(4, 4), torch.eye(4), torch.tensor([3.0, 2, 1, 1]))
    # Squares: 9, 4, 1, 1 of 15.
    assert [decomposition.rank_of(energy) for energy in (0.6, 0.61, 0.86, 0.9, 1)] == [
        1,
        2,
        2,
        3,
        4,
    ]


def test_a_weight_of_zeros_has_rank_one_and_stays_zero() -> None:
    decomposition = Decomposition.of(torch.zeros(4, 6))
    assert decomposition.rank_of(0.9) == 1
    assert not _product(decomposition, 1).any()


@pytest.mark.parametrize("bias", [True, False])
def test_a_replacement_is_trained_like_the_layer_and_shows_what_it_amounts_to(bias: bool) -> None:
    linear = nn.Linear(12, 20, bias=bias).eval()
    made = replacement(linear, Decomposition.of(linear.weight), 12)
    assert not made.second.training
    assert (made.in_features, made.out_features) == (12, 20)
    torch.testing.assert_close(made.weight, linear.weight)
    assert (made.bias is None) == (not bias)
    samples = torch.randn(2, 3, 12)
    torch.testing.assert_close(made(samples), linear(samples))


def _ranks(network: nn.Module) -> dict[str, int]:
    found = {name: m for name, m in network.named_modules() if isinstance(m, LowRank)}
    return {name: low.first.out_features for name, low in found.items()}


@pytest.mark.parametrize("whiten", [False, True])
def test_break_even_decides_ranks_by_shape(whiten: bool) -> None:
    made = LowRankFactors(break_even=0.7, whiten=whiten).apply(tiny.state(), DATA, quiet())
    expected = {"0": int(0.7 * 8 * 16 / 24), "2": int(0.7 * 8), "4": int(0.7 * 16 * 3 / 19)}
    assert _ranks(made.network) == expected == {"0": 3, "2": 5, "4": 1}
    assert made.notes == ("ranks: 0 3 of 8, 2 5 of 16, 4 1 of 3",)


def test_energy_keeps_that_share_of_each_layer() -> None:
    made = LowRankFactors(energy=0.7, exclude=("4",)).apply(tiny.state(), DATA, quiet())
    dense = tiny.network()
    for name, rank in _ranks(made.network).items():
        squares = torch.linalg.svdvals(dense.get_parameter(f"{name}.weight").detach()).square()
        assert squares[: rank - 1].sum() < 0.7 * squares.sum() <= squares[:rank].sum()


def test_a_layer_that_would_not_be_smaller_stays_and_the_notes_say_so() -> None:
    assert break_even(8, 16) == pytest.approx(16 / 3)
    given = tiny.state()
    with torch.no_grad():  # the first layer is of full rank, the second of rank 1
        given.network.get_parameter("0.weight").copy_(torch.eye(16, 8))
        given.network.get_parameter("2.weight").copy_(torch.outer(torch.ones(16), torch.ones(16)))
    made = LowRankFactors(energy=0.99, exclude=("4",)).apply(given, DATA, quiet())
    assert _ranks(made.network) == {"2": 1}
    assert made.notes == (
        "layer 0 stays dense: at rank 8 it would not be smaller, which begins below 5.3",
        "ranks: 2 1 of 16",
    )


def test_with_no_layer_left_it_says_why() -> None:
    with pytest.raises(ValueError, match="no layer to work on: layer 0 stays dense: at rank 8"):
        LowRankFactors(energy=1.0).apply(tiny.state(), DATA, quiet())


@pytest.mark.parametrize("parameters", [{}, {"energy": 0.9, "break_even": 0.5}])
def test_rank_must_be_decided_once(parameters: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="either energy or break_even"):
        LowRankFactors.model_validate(parameters)


def test_whitening_answers_nearer_to_the_network_on_correlated_inputs() -> None:
    samples = _correlated(600, tiny.INPUTS).numpy()
    split = Split({"input": samples}, np.zeros(len(samples), np.int64))
    data = TrainingData(split, split.part(0, 400))
    plain, whitened = (
        LowRankFactors(break_even=0.5, whiten=whiten, exclude=("4",)).apply(
            tiny.state(), data, quiet()
        )
        for whiten in (False, True)
    )
    unseen = split.part(400, 600).samples
    expected = tiny.answers(tiny.network(), unseen)
    off = [np.abs(tiny.answers(m.network, unseen) - expected).mean() for m in (plain, whitened)]
    assert off[1] < 0.7 * off[0]


def test_linears_beside_convolutions_and_of_two_inputs_are_factorised() -> None:
    for module, head in ((tiny_conv, {"head": 1}), (two_inputs, {"hidden": 2, "head": 1})):
        given = module.state()
        technique = LowRankFactors(break_even=0.5, whiten=True)
        made = technique.apply(given, module.datasets().training_data, quiet())
        assert _ranks(made.network) == head
        samples = module.split(10).samples
        assert tiny.answers(made.network, samples).shape == (10, module.CLASSES)


class _Encoder(nn.Module):
    """Has what torch treats specially: attention, and an encoder layer that reads weights."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Linear(8, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.again = self.widen
        self.head = nn.Linear(16, 3)

    def forward(self, values: Tensor) -> Tensor:
        tokens = torch.stack([self.widen(values), self.again(values.roll(1, 1))], dim=1)
        logits: Tensor = self.head(self.encoder(tokens).mean(dim=1))
        return logits


def test_an_encoder_layer_computes_with_its_factors_and_attention_is_left_alone() -> None:
    torch.manual_seed(0)
    network = _Encoder().eval()
    samples = DATA.validation.samples
    given = CompressionState(network, describe(network, samples, {}), dense=network)
    technique = LowRankFactors(break_even=0.8, exclude=("head",))
    made = technique.apply(given, DATA, quiet())
    assert _ranks(made.network) == {"widen": 4, "encoder.linear1": 8, "encoder.linear2": 8}
    assert made.network.get_submodule("again") is made.network.get_submodule("widen")
    assert "encoder.self_attn.out_proj stays dense: a NonDynamicallyQuant" in made.notes[0]

    expected = copy.deepcopy(network)
    with torch.no_grad():
        for name in _ranks(made.network):
            low = made.network.get_submodule(name)
            assert isinstance(low, LowRank)
            expected.get_parameter(f"{name}.weight").copy_(low.weight)
    np.testing.assert_allclose(
        tiny.answers(made.network, samples), tiny.answers(expected, samples), atol=1e-5
    )


def test_factors_packed_two_of_four_are_rebuilt_from_the_factory() -> None:
    low = LowRankFactors(break_even=0.99, exclude=("4",)).apply(tiny.state(), DATA, quiet())
    made = SparseNM(min_rows=4).apply(low, DATA, quiet())
    assert made.packed == {"0.first", "2.first"}
    layers, tensors = plan.describe(made.network, made.packed)
    again = plan.rebuild(tiny.network(seed=1), layers, safetensors.torch.save(tensors))
    samples = DATA.validation.samples
    np.testing.assert_array_equal(tiny.answers(again, samples), tiny.answers(made.network, samples))


def test_resolve_names_the_missing_parameter() -> None:
    with pytest.raises(ValueError, match=r"'low-rank': break_even: .*either energy or break_even"):
        resolve(Step(technique="low-rank"))

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
from variants.model.loading import describe_interface
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
    """Return inputs near 3 directions with a last column of 0, so that the moments are singular."""
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(3, inputs, generator=generator) * torch.tensor([[5.0], [2.0], [1.0]])
    samples = torch.randn(count, 3, generator=generator) @ directions
    samples += 0.1 * torch.randn(count, inputs, generator=generator)
    samples[:, -1] = 0
    return samples


def _moments(samples: Tensor) -> Tensor:
    return (samples.double().T @ samples.double()) / len(samples)


@pytest.mark.parametrize("shape", [(20, 12), (12, 20), (12, 12)])
def test_full_rank_equals_the_weight(shape: tuple[int, int]) -> None:
    weight = _weight(*shape)
    torch.testing.assert_close(_product(Decomposition.of(weight), 12), weight)


def test_full_rank_equals_the_weight_on_the_inputs_of_the_moments() -> None:
    weight, samples = _weight(), _correlated()
    product = _product(Decomposition.of(weight, _moments(samples)), 12)
    torch.testing.assert_close(samples @ product.T, samples @ weight.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rank", [1, 4, 11])
def test_the_error_equals_the_discarded_singular_values(rank: int) -> None:
    """Eckart and Young 1936: no matrix of that rank has a smaller error."""
    weight = _weight()
    error = (weight - _product(Decomposition.of(weight), rank)).double().square().sum()
    discarded = torch.linalg.svdvals(weight.double())[rank:].square().sum()
    torch.testing.assert_close(error, discarded, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_with_moments_the_output_error_equals_the_discarded_singular_values(rank: int) -> None:
    weight, samples = _weight(), _correlated()
    decomposition = Decomposition.of(weight, _moments(samples))
    error = (samples @ (weight - _product(decomposition, rank)).T).double().square()
    discarded = decomposition.singular[rank:].square().sum()
    torch.testing.assert_close(error.sum(1).mean(), discarded, rtol=1e-3, atol=0)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_whitening_lowers_the_output_error_on_correlated_inputs(rank: int) -> None:
    weight, samples = _weight(), _correlated()
    plain, whitened = (
        float((samples @ (weight - _product(decomposition, rank)).T).norm())
        for decomposition in (Decomposition.of(weight), Decomposition.of(weight, _moments(samples)))
    )
    assert whitened < 0.6 * plain


@pytest.mark.parametrize("bias", [True, False])
def test_a_bias_corrects_the_error_at_the_mean_input(bias: bool) -> None:
    linear, samples = nn.Linear(12, 20, bias=bias), _correlated() + 3
    mean = samples.double().mean(dim=0)
    decomposition = Decomposition.of(linear.weight, _moments(samples - mean.float()))
    with torch.no_grad():
        error = linear(samples) - replacement(linear, decomposition, 2, mean)(samples)
    assert (error.mean(dim=0).abs().max() < 1e-4) == bias
    if bias:
        spread = error.double().square().sum(dim=1).mean()
        expected = decomposition.singular[2:].square().sum()
        torch.testing.assert_close(spread, expected, rtol=1e-3, atol=0)


def test_directions_have_the_same_length_in_both_factors() -> None:
    first, second = Decomposition.of(_weight()).factors(5)
    torch.testing.assert_close(first.norm(dim=1), second.norm(dim=0))


def test_the_rank_is_the_smallest_that_keeps_the_energy() -> None:
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
def test_a_replacement_has_the_mode_sizes_and_weight_of_the_layer(bias: bool) -> None:
    linear = nn.Linear(12, 20, bias=bias).eval()
    result = replacement(linear, Decomposition.of(linear.weight), 12)
    assert not result.second.training
    assert (result.in_features, result.out_features) == (12, 20)
    torch.testing.assert_close(result.weight, linear.weight)
    assert (result.bias is None) == (not bias)
    samples = torch.randn(2, 3, 12)
    torch.testing.assert_close(result(samples), linear(samples))


def _ranks(network: nn.Module) -> dict[str, int]:
    modules = {name: m for name, m in network.named_modules() if isinstance(m, LowRank)}
    return {name: low.first.out_features for name, low in modules.items()}


@pytest.mark.parametrize("whiten", [False, True])
def test_break_even_decides_ranks_by_shape(whiten: bool) -> None:
    result = LowRankFactors(break_even=0.7, whiten=whiten).apply(tiny.state(), DATA, quiet())
    expected = {"0": int(0.7 * 8 * 16 / 24), "2": int(0.7 * 8), "4": int(0.7 * 16 * 3 / 19)}
    assert _ranks(result.network) == expected == {"0": 3, "2": 5, "4": 1}
    assert result.notes == ("ranks: 0 3 of 8, 2 5 of 16, 4 1 of 3",)


def test_energy_keeps_that_share_of_each_layer() -> None:
    result = LowRankFactors(energy=0.7, exclude=("4",)).apply(tiny.state(), DATA, quiet())
    dense = tiny.network()
    for name, rank in _ranks(result.network).items():
        squares = torch.linalg.svdvals(dense.get_parameter(f"{name}.weight").detach()).square()
        assert squares[: rank - 1].sum() < 0.7 * squares.sum() <= squares[:rank].sum()


def test_a_layer_that_would_not_become_smaller_stays_dense() -> None:
    assert break_even(8, 16) == pytest.approx(16 / 3)
    original = tiny.state()
    with torch.no_grad():  # the first layer is of full rank, the second of rank 1
        original.network.get_parameter("0.weight").copy_(torch.eye(16, 8))
        original.network.get_parameter("2.weight").copy_(
            torch.outer(torch.ones(16), torch.ones(16))
        )
    result = LowRankFactors(energy=0.99, exclude=("4",)).apply(original, DATA, quiet())
    assert _ranks(result.network) == {"2": 1}
    assert result.notes == (
        "layer 0 stays dense: rank 8 would not make it smaller, since that needs a rank below 5.3",
        "ranks: 2 1 of 16",
    )


def test_if_no_layer_becomes_smaller_the_error_says_why() -> None:
    with pytest.raises(ValueError, match="applied to any layer: layer 0 stays dense: rank 8"):
        LowRankFactors(energy=1.0).apply(tiny.state(), DATA, quiet())


@pytest.mark.parametrize("parameters", [{}, {"energy": 0.9, "break_even": 0.5}])
def test_either_energy_or_break_even_must_be_set(parameters: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="either energy or break_even"):
        LowRankFactors.model_validate(parameters)


def test_whitening_keeps_outputs_closer_on_correlated_inputs() -> None:
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
    error = [np.abs(tiny.answers(m.network, unseen) - expected).mean() for m in (plain, whitened)]
    assert error[1] < 0.7 * error[0]


def test_linears_in_convolutional_and_two_input_networks_are_factorized() -> None:
    for module, head in ((tiny_conv, {"head": 1}), (two_inputs, {"hidden": 2, "head": 1})):
        original = module.state()
        technique = LowRankFactors(break_even=0.5, whiten=True)
        result = technique.apply(original, module.datasets().training_data, quiet())
        assert _ranks(result.network) == head
        samples = module.split(10).samples
        assert tiny.answers(result.network, samples).shape == (10, module.CLASSES)


class _Encoder(nn.Module):
    """Has modules with a fast path in torch: attention, and an encoder layer that reads weights."""

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


def test_an_encoder_layer_uses_the_factors_and_attention_is_skipped() -> None:
    torch.manual_seed(0)
    network = _Encoder().eval()
    samples = DATA.validation.samples
    original = CompressionState(network, describe_interface(network, samples, {}), dense=network)
    technique = LowRankFactors(break_even=0.8, exclude=("head",))
    result = technique.apply(original, DATA, quiet())
    assert _ranks(result.network) == {"widen": 4, "encoder.linear1": 8, "encoder.linear2": 8}
    assert result.network.get_submodule("again") is result.network.get_submodule("widen")
    assert "encoder.self_attn.out_proj stays dense: a NonDynamicallyQuant" in result.notes[0]

    expected = copy.deepcopy(network)
    with torch.no_grad():
        for name in _ranks(result.network):
            low = result.network.get_submodule(name)
            assert isinstance(low, LowRank)
            expected.get_parameter(f"{name}.weight").copy_(low.weight)
    np.testing.assert_allclose(
        tiny.answers(result.network, samples), tiny.answers(expected, samples), atol=1e-5
    )


def test_packed_2_of_4_factors_are_rebuilt_from_the_factory() -> None:
    low = LowRankFactors(break_even=0.99, exclude=("4",)).apply(tiny.state(), DATA, quiet())
    result = SparseNM(min_rows=4).apply(low, DATA, quiet())
    assert result.packed == {"0.first", "2.first"}
    layers, tensors = plan.make_plan(result.network, result.packed)
    again = plan.rebuild(tiny.network(seed=1), layers, safetensors.torch.save(tensors))
    samples = DATA.validation.samples
    np.testing.assert_array_equal(
        tiny.answers(again, samples), tiny.answers(result.network, samples)
    )


def test_resolve_names_the_missing_parameter() -> None:
    with pytest.raises(ValueError, match=r"'low-rank': break_even: .*either energy or break_even"):
        resolve(Step(technique="low-rank"))

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from tests.small import quiet
from tests.variants import tiny, tiny_attention, tiny_conv, two_inputs
from variants.compression.pruning.graph import find_unit_groups
from variants.compression.pruning.neurons import measure_reader_moments
from variants.compression.pruning.score import Criterion, score
from variants.compression.techniques.structured import Structured
from variants.model.dataset import Split
from variants.model.forward import all_scores
from variants.model.state import CompressionState
from variants.model.training import Schedule, accuracy, fit

CRITERIA: tuple[Criterion, ...] = ("magnitude", "gradient", "activation", "taylor", "random")


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _prune(module: Any, **parameters: Any) -> CompressionState:
    return Structured(**parameters).apply(module.state(), module.datasets().training_data, quiet())


@pytest.mark.parametrize("module", [tiny, tiny_conv, two_inputs, tiny_attention])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_share_is_reached_and_the_network_runs(module: Any, criterion: Criterion) -> None:
    result = _prune(module, share=0.3, criterion=criterion, samples=32)
    dense = _parameters(module.network())
    removed = 1 - _parameters(result.network) / dense
    assert 0.3 <= removed < 0.42
    left = _parameters(result.network)
    assert result.notes[0].startswith(
        f"kept {left:,} of {dense:,} parameters, {removed:.1%} removed; "
    )
    answers = all_scores(result.network, module.split(7).samples)
    assert answers.shape == (7, module.CLASSES)
    assert answers.isfinite().all()


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_number_of_kept_neurons_is_a_multiple(rounds: int) -> None:
    result = _prune(tiny_conv, share=0.4, round_to=4, rounds=rounds, criterion="magnitude")
    widths = {m.out_channels for m in result.network.modules() if isinstance(m, nn.Conv2d)}
    assert all(width % 4 == 0 for width in widths)
    assert 1 - _parameters(result.network) / _parameters(tiny_conv.network()) >= 0.4


def test_random_depends_on_the_seed_only() -> None:
    def kept(seed: int) -> dict[str, torch.Tensor]:
        return _prune(tiny, share=0.5, criterion="random", seed=seed).network.state_dict()

    first, again, other = kept(3), kept(3), kept(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[f"{at}.weight"], other[f"{at}.weight"]) for at in (0, 2))


@cache
def _trained() -> nn.Module:
    """Return a network in which 8 of 24 hidden neurons are important."""
    network: Any = nn.Sequential(nn.Linear(tiny.INPUTS, 24), nn.ReLU(), nn.Linear(24, 3))
    nn.init.zeros_(network[0].bias)
    small: Any = nn.Sequential(nn.Linear(tiny.INPUTS, 8), nn.ReLU(), nn.Linear(8, 3))
    torch.manual_seed(0)
    for module in small:
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    fit(small, tiny.split(600, 1), Schedule(epochs=20, batch_size=32, learning_rate=1e-2), quiet())
    useful = np.random.default_rng(0).permutation(24)[:8]
    with torch.no_grad():
        nn.init.normal_(network[0].weight, std=0.05)
        nn.init.normal_(network[2].weight, std=0.05)
        network[0].weight[useful] = small[0].weight
        network[0].bias[useful] = small[0].bias
        network[2].weight[:, useful] = small[2].weight
        network[2].bias.copy_(small[2].bias)
    result: nn.Module = network.eval()
    return result


def _state(network: nn.Module) -> CompressionState:
    return CompressionState(network, tiny.state().interface, dense=network)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_but_random_removes_unimportant_neurons_first(criterion: Criterion) -> None:
    dense = accuracy(_trained(), tiny.split(500, 7))
    assert dense > 0.9
    data = tiny.datasets().training_data
    result = Structured(share=0.6, criterion=criterion).apply(_state(_trained()), data, quiet())
    lost = dense - accuracy(result.network, tiny.split(500, 7))
    assert lost > 0.05 if criterion == "random" else lost < 0.01


@pytest.mark.parametrize("module", [tiny_conv, tiny_attention])
def test_taylor_equals_the_gradient_of_a_gate_on_each_unit(module: Any) -> None:
    """Finite differences of a gate on each unit of the residual stream, where it is read."""
    network = module.network().double()
    split = _doubled(module.split(16, 3))  # one batch, so one sum is squared
    groups = find_unit_groups(network, split.samples).groups
    scores = score(network, groups, split, "taylor", 0, quiet())
    labels = torch.from_numpy(split.labels)

    def loss(at: int, gate: float) -> float:
        moved = module.network().double()
        with torch.no_grad():
            for name, units in groups[0].readers.items():
                moved.get_submodule(name).weight[:, units == at] *= gate
        return float(nn.functional.cross_entropy(all_scores(moved, split.samples), labels))

    step = 1e-5
    slopes = [
        (loss(at, 1 + step) - loss(at, 1 - step)) / (2 * step) for at in range(groups[0].size)
    ]
    expected = np.square(slopes) / np.square(slopes).mean()
    np.testing.assert_allclose(scores[groups[0].name], expected, rtol=1e-5)


def _doubled(split: Split) -> Split:
    wide = {np.dtype(np.float32): np.float64}
    samples = {
        n: array.astype(wide.get(array.dtype, array.dtype)) for n, array in split.samples.items()
    }
    return Split(samples, split.labels)


def test_magnitude_and_activation_equal_their_definitions() -> None:
    network, split = tiny.network(), tiny.split(100, 4)
    groups = find_unit_groups(network, split.samples).groups
    scores = score(network, groups, split, "magnitude", 0, quiet())
    w = [parameter.detach().double().numpy() for parameter in network.parameters()]
    expected = (w[0] ** 2).sum(1) + (w[2] ** 2).sum(0)
    np.testing.assert_allclose(scores["0"], expected / expected.mean(), rtol=1e-6)
    scores = score(network, groups, split, "activation", 0, quiet())
    activations: NDArray[Any] = np.abs(tiny.answers(network[:2], split.samples)).mean(0)
    np.testing.assert_allclose(scores["0"], activations / activations.mean(), rtol=1e-5)


def test_scores_include_all_batches() -> None:
    network = tiny.network()
    groups = find_unit_groups(network, tiny.split(9).samples).groups
    whole = tiny.split(80, 4)
    scores = score(network, groups, whole, "gradient", 0, quiet())
    halves = [score(network, groups, whole.part(*ends), "gradient", 0, quiet()) for ends in
              ((0, 48), (48, 80))]  # fmt: skip
    assert np.abs(scores["2"] - halves[1]["2"]).max() > 0.01
    assert np.abs(scores["2"] - (0.6 * halves[0]["2"] + 0.4 * halves[1]["2"])).max() < 0.1


class _ByKeyword(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(input=x)
        return x


@pytest.mark.parametrize("criterion", ["activation", "taylor"])
def test_a_layer_called_by_keyword_is_observed(criterion: Criterion) -> None:
    network, split = tiny.network(), tiny.split(40, 4)
    groups = find_unit_groups(network, split.samples).groups
    named = _ByKeyword(*network).eval()
    expected = score(network, groups, split, criterion, 0, quiet())
    scores = score(named, groups, split, criterion, 0, quiet())
    moments = measure_reader_moments(named, groups, split.samples, quiet())
    expected_moments = measure_reader_moments(network, groups, split.samples, quiet())
    for name in expected:
        np.testing.assert_array_equal(scores[name], expected[name])
    for name in expected_moments:
        np.testing.assert_array_equal(moments[name].mean, expected_moments[name].mean)


def test_a_layer_that_is_never_called_cannot_be_scored_by_its_inputs() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.two(torch.relu(self.one(x)))
            return scores

    network: Any = Functional().eval()
    groups = find_unit_groups(network, tiny.split(9).samples).groups

    def forward(x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(network.one(x))
        return nn.functional.linear(hidden, network.two.weight, network.two.bias)

    network.forward = forward
    reason = (
        "inputs of two cannot be observed: it is never called; the criterion magnitude does not"
    )
    with pytest.raises(ValueError, match=reason):
        score(network, groups, tiny.split(9), "taylor", 0, quiet())


def test_rounds_reach_the_share_and_train_in_between() -> None:
    schedule = Schedule(epochs=2, batch_size=32, learning_rate=1e-2)
    original, data = _state(_trained()), tiny.datasets().training_data

    def weights(rounds: int, recover: Schedule | None) -> torch.Tensor:
        technique = Structured(share=0.7, rounds=rounds, recover=recover)
        result = technique.apply(original, data, quiet())
        assert 0.7 <= 1 - _parameters(result.network) / _parameters(_trained()) < 0.75
        assert accuracy(result.network, tiny.split(500, 7)) > 0.8
        return result.network.get_parameter("0.weight")

    dense = _trained().get_parameter("0.weight")
    for kept in (weights(1, None), weights(3, None)):
        assert all((dense == row).all(1).any() for row in kept)
    assert not any((dense == row).all(1).any() for row in weights(3, schedule))


def test_heads_layers_and_norms_are_pruned_as_the_parameters_say() -> None:
    def sizes(**parameters: Any) -> tuple[int, int, int]:
        result = _prune(tiny_attention, criterion="magnitude", scope="layer", **parameters)
        network: Any = result.network
        layer = network.layers[0]
        return len(layer.attention.query.weight), layer.inner.out_features, len(layer.outer.bias)

    assert sizes(share=0.15) == (8, 17, 12)  # the same ratio of each: 1 of 3 heads, 7 of 24
    assert sizes(share=0.15, heads=False) == (12, 15, 12)
    assert sizes(share=0.15, exclude=("layers.*.inner",)) == (4, 24, 12)
    queries, inner, width = sizes(share=0.3, through_norms=True)
    assert (queries, inner, width) == (12, 19, 9)


def test_excluding_layers_prunes_heads_alone() -> None:
    result = _prune(tiny_attention, share=0.1, exclude=("layers.?.inner",))
    assert "is not pruned: a LayerNorm normalizes it (see through_norms)" in result.notes[1]
    assert "inner" not in result.notes[0]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"share": 0.97}, r"cannot remove 97.0% of the 467 parameters, only 9\d.\d%"),
        ({"share": 0.9, "max_ratio": 0.5}, r"cannot remove 90.0% of .*, only 6\d.\d%"),
        ({"share": 0.5, "exclude": ("1",)}, "exclude: '1' matches no layer; the layers are 0, 2"),
        ({"share": 0.5, "exclude": ("*",)}, "no units can be removed: no hidden layers"),
    ],
)
def test_parameters_that_cannot_be_met_raise(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _prune(tiny, **parameters)


@pytest.mark.parametrize("parameters", [{}, {"share": 1}, {"share": 0.5, "criterion": "l3"}])
def test_invalid_parameters_raise(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Structured(**parameters)


def test_equal_steps_give_equal_networks() -> None:
    first = _prune(tiny_attention, share=0.3)
    second = _prune(tiny_attention, share=0.3)
    for one, two in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(one, two)


def test_pruning_prints_nothing_and_does_not_warn() -> None:
    code = """if True:
        from tests.small import quiet
        from tests.variants import tiny_attention
        from variants.compression.techniques.structured import Structured
        data = tiny_attention.datasets().training_data
        Structured(share=0.3, samples=32).apply(tiny_attention.state(), data, quiet())
    """
    command = [sys.executable, "-W", "error", "-c", code]
    process = subprocess.run(command, capture_output=True, check=False, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")

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
def test_the_share_is_reached_and_the_network_still_runs(module: Any, criterion: Criterion) -> None:
    made = _prune(module, share=0.3, criterion=criterion, samples=32)
    dense = _parameters(module.network())
    gone = 1 - _parameters(made.network) / dense
    assert 0.3 <= gone < 0.42
    left = _parameters(made.network)
    assert made.notes[0].startswith(f"kept {left:,} of {dense:,} parameters, {gone:.1%} gone; ")
    answers = all_scores(made.network, module.split(7).samples)
    assert answers.shape == (7, module.CLASSES)
    assert answers.isfinite().all()


@pytest.mark.parametrize("rounds", [1, 3])
def test_neurons_that_stay_are_a_multiple(rounds: int) -> None:
    made = _prune(tiny_conv, share=0.4, round_to=4, rounds=rounds, criterion="magnitude")
    widths = {m.out_channels for m in made.network.modules() if isinstance(m, nn.Conv2d)}
    assert all(width % 4 == 0 for width in widths)
    assert 1 - _parameters(made.network) / _parameters(tiny_conv.network()) >= 0.4


def test_random_is_decided_by_its_seed_alone() -> None:
    def kept(seed: int) -> dict[str, torch.Tensor]:
        return _prune(tiny, share=0.5, criterion="random", seed=seed).network.state_dict()

    first, again, other = kept(3), kept(3), kept(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[f"{at}.weight"], other[f"{at}.weight"]) for at in (0, 2))


@cache
def _trained() -> nn.Module:
    """A network with 8 of 24 hidden neurons that matter, and 16 that hardly do."""
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
    made: nn.Module = network.eval()
    return made


def _given(network: nn.Module) -> CompressionState:
    return CompressionState(network, tiny.state().interface, dense=network)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_what_hardly_matters_goes_first_unless_chance_decides(criterion: Criterion) -> None:
    dense = accuracy(_trained(), tiny.split(500, 7))
    assert dense > 0.9
    data = tiny.datasets().training_data
    made = Structured(share=0.6, criterion=criterion).apply(_given(_trained()), data, quiet())
    lost = dense - accuracy(made.network, tiny.split(500, 7))
    assert lost > 0.05 if criterion == "random" else lost < 0.01


@pytest.mark.parametrize("module", [tiny_conv, tiny_attention])
def test_taylor_is_the_change_of_the_loss_when_nothing_reads_a_unit(module: Any) -> None:
    """A gate on each unit of the residual stream, where it is read, by finite differences."""
    network = module.network().double()
    split = _doubled(module.split(16, 3))  # one batch: the square is of its mean
    groups = find_unit_groups(network, split.samples).groups
    found = score(network, groups, split, "taylor", 0, quiet())
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
    np.testing.assert_allclose(found[groups[0].name], expected, rtol=1e-5)


def _doubled(split: Split) -> Split:
    wide = {np.dtype(np.float32): np.float64}
    samples = {
        n: array.astype(wide.get(array.dtype, array.dtype)) for n, array in split.samples.items()
    }
    return Split(samples, split.labels)


def test_magnitude_and_activation_are_what_they_say() -> None:
    network, split = tiny.network(), tiny.split(100, 4)
    groups = find_unit_groups(network, split.samples).groups
    found = score(network, groups, split, "magnitude", 0, quiet())
    w = [parameter.detach().double().numpy() for parameter in network.parameters()]
    expected = (w[0] ** 2).sum(1) + (w[2] ** 2).sum(0)
    np.testing.assert_allclose(found["0"], expected / expected.mean(), rtol=1e-6)
    found = score(network, groups, split, "activation", 0, quiet())
    said: NDArray[Any] = np.abs(tiny.answers(network[:2], split.samples)).mean(0)
    np.testing.assert_allclose(found["0"], said / said.mean(), rtol=1e-5)


def test_calibration_takes_all_samples_not_the_last_batch() -> None:
    network = tiny.network()
    groups = find_unit_groups(network, tiny.split(9).samples).groups
    whole = tiny.split(80, 4)
    found = score(network, groups, whole, "gradient", 0, quiet())
    halves = [score(network, groups, whole.part(*ends), "gradient", 0, quiet()) for ends in
              ((0, 48), (48, 80))]  # fmt: skip
    assert np.abs(found["2"] - halves[1]["2"]).max() > 0.01
    assert np.abs(found["2"] - (0.6 * halves[0]["2"] + 0.4 * halves[1]["2"])).max() < 0.1


class _ByKeyword(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(input=x)
        return x


@pytest.mark.parametrize("criterion", ["activation", "taylor"])
def test_a_layer_called_by_keyword_is_heard(criterion: Criterion) -> None:
    network, split = tiny.network(), tiny.split(40, 4)
    groups = find_unit_groups(network, split.samples).groups
    named = _ByKeyword(*network).eval()
    expected = score(network, groups, split, criterion, 0, quiet())
    found = score(named, groups, split, criterion, 0, quiet())
    moments = measure_reader_moments(named, groups, split.samples, quiet())
    same = measure_reader_moments(network, groups, split.samples, quiet())
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    for name in same:
        np.testing.assert_array_equal(moments[name].mean, same[name].mean)


def test_a_layer_that_is_never_called_cannot_be_scored_by_what_it_reads() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.two(torch.relu(self.one(x)))
            return scores

    network: Any = Functional().eval()
    groups = find_unit_groups(network, tiny.split(9).samples).groups

    def around(x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(network.one(x))
        return nn.functional.linear(hidden, network.two.weight, network.two.bias)

    network.forward = around
    reason = "two reads cannot be seen: it is never called; the criterion magnitude does without"
    with pytest.raises(ValueError, match=reason):
        score(network, groups, tiny.split(9), "taylor", 0, quiet())


def test_rounds_reach_the_share_and_recover_between() -> None:
    schedule = Schedule(epochs=2, batch_size=32, learning_rate=1e-2)
    given, data = _given(_trained()), tiny.datasets().training_data

    def weights(rounds: int, recover: Schedule | None) -> torch.Tensor:
        technique = Structured(share=0.7, rounds=rounds, recover=recover)
        made = technique.apply(given, data, quiet())
        assert 0.7 <= 1 - _parameters(made.network) / _parameters(_trained()) < 0.75
        assert accuracy(made.network, tiny.split(500, 7)) > 0.8
        return made.network.get_parameter("0.weight")

    dense = _trained().get_parameter("0.weight")
    for kept in (weights(1, None), weights(3, None)):
        assert all((dense == row).all(1).any() for row in kept)
    assert not any((dense == row).all(1).any() for row in weights(3, schedule))


def test_heads_layers_and_norms_take_part_as_asked() -> None:
    def sizes(**parameters: Any) -> tuple[int, int, int]:
        made = _prune(tiny_attention, criterion="magnitude", scope="layer", **parameters)
        network: Any = made.network
        layer = network.layers[0]
        return len(layer.attention.query.weight), layer.inner.out_features, len(layer.outer.bias)

    assert sizes(share=0.15) == (8, 17, 12)  # the same ratio of each: 1 of 3 heads, 7 of 24
    assert sizes(share=0.15, heads=False) == (12, 15, 12)
    assert sizes(share=0.15, exclude=("layers.*.inner",)) == (4, 24, 12)
    queries, inner, width = sizes(share=0.3, through_norms=True)
    assert (queries, inner, width) == (12, 19, 9)


def test_heads_alone_is_an_exclusion() -> None:
    made = _prune(tiny_attention, share=0.1, exclude=("layers.?.inner",))
    assert "left alone: a LayerNorm runs over it (through_norms)" in made.notes[1]
    assert "inner" not in made.notes[0]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"share": 0.97}, r"97.0% of the 467 parameters cannot be removed, 9\d.\d% at most"),
        ({"share": 0.9, "max_ratio": 0.5}, r"90.0% of .* cannot be removed, 6\d.\d% at most"),
        ({"share": 0.5, "exclude": ("1",)}, "exclude: '1' names none of 0, 2"),
        ({"share": 0.5, "exclude": ("*",)}, "no units can be removed: nothing is hidden"),
    ],
)
def test_what_cannot_be_done_is_said(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _prune(tiny, **parameters)


@pytest.mark.parametrize("parameters", [{}, {"share": 1}, {"share": 0.5, "criterion": "l3"}])
def test_parameters_are_checked(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Structured(**parameters)


def test_the_same_step_makes_the_same_network() -> None:
    first = _prune(tiny_attention, share=0.3)
    second = _prune(tiny_attention, share=0.3)
    for one, two in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(one, two)


def test_pruning_says_nothing_and_warns_of_nothing() -> None:
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

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.variants import tiny, tiny_attention, tiny_conv, two_inputs
from variants.compression.pruning.graph import UnitGroups, find_unit_groups
from variants.compression.pruning.group import (
    ParameterCounter,
    remove_units,
    update_groups,
    zero_units,
)
from variants.compression.pruning.selection import Limits, Scope, choose
from variants.model.dataset import Samples
from variants.model.forward import all_scores

VECTORS = {"x": np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)}
IMAGES = {"x": np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)}


def _found(network: nn.Module, samples: Samples) -> UnitGroups:
    return find_unit_groups(network.eval(), samples)


def _half(unit_groups: UnitGroups) -> dict[str, NDArray[np.bool_]]:
    random = np.random.default_rng(1)
    return {g.name: random.permutation(np.arange(g.size) % 2 == 0) for g in unit_groups.groups}


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (tiny, ["0", "2"]),
        (tiny_conv, ["stem + narrow", "widen"]),
        (two_inputs, ["embedding", "hidden"]),
        (
            tiny_attention,
            [
                "embedding + 4 more",
                "layers.0.attention",
                "layers.0.inner",
                "layers.1.attention",
                "layers.1.inner",
            ],
        ),
    ],
)
def test_removing_units_is_having_nothing_read_them(module: Any, names: list[str]) -> None:
    network, samples = module.network(), module.split(50, seed=5).samples
    unit_groups = find_unit_groups(network, samples)
    assert [group.name for group in unit_groups.groups] == names
    assert unit_groups.notes == ()
    kept = _half(unit_groups)
    smaller = remove_units(network, unit_groups.groups, kept)
    silent = zero_units(network, unit_groups.groups, kept)
    expected = all_scores(silent, samples).numpy()
    np.testing.assert_allclose(all_scores(smaller, samples).numpy(), expected, atol=2e-6)
    assert np.abs(all_scores(network, samples).numpy() - expected).max() > 0.01
    counter = ParameterCounter(network, unit_groups.groups)
    assert counter.total == sum(p.numel() for p in network.parameters())
    assert counter.left(kept) == sum(p.numel() for p in smaller.parameters()) < counter.total
    again = find_unit_groups(smaller, samples)
    left = update_groups(unit_groups.groups, kept)
    assert [(g.name, g.size) for g in again.groups] == [(g.name, g.size) for g in left]
    for one, other in zip(again.groups, left, strict=True):
        places = {(m.tensor, m.axis): m.units.tolist() for m in other.tensors}
        assert {(m.tensor, m.axis): m.units.tolist() for m in one.tensors} == places


def test_a_channel_of_a_residual_network_is_silenced_by_hand() -> None:
    network, samples = tiny_conv.network(), tiny_conv.split(20).samples
    kept = {"widen": np.arange(tiny_conv.INNER) != 5}
    smaller: Any = remove_units(network, find_unit_groups(network, samples).groups, kept)
    assert (smaller.widen.out_channels, smaller.narrow.in_channels) == (15, 15)
    assert (smaller.widen_norm.num_features, len(smaller.widen_norm.running_var)) == (15, 15)
    network.widen_norm.weight.data[5] = 0
    network.widen_norm.bias.data[5] = 0
    expected = all_scores(network, samples).numpy()
    np.testing.assert_allclose(all_scores(smaller, samples).numpy(), expected, atol=1e-6)


class _Mobile(nn.Module):
    """Depthwise convolution, PReLU, squeeze and excitation, concatenation, flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.widen = nn.Conv2d(6, 12, 1)
        self.depth = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.activation = nn.PReLU(12)
        self.squeeze = nn.Linear(12, 4)
        self.excite = nn.Linear(4, 12)
        self.narrow = nn.Conv2d(18, 5, 1)
        self.hidden = nn.Linear(5 * 4, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 4)
        wide = self.activation(self.depth(self.widen(x)))
        weight = torch.sigmoid(self.excite(F.relu(self.squeeze(wide.mean((2, 3))))))
        x = torch.cat([wide * weight[:, :, None, None], x], 1)
        logits: Tensor = self.head(F.relu(self.hidden(F.relu(self.narrow(x)).flatten(1))))
        return logits


def test_depthwise_concatenated_and_flattened_channels_are_followed() -> None:
    torch.manual_seed(0)
    network = _Mobile().eval()
    unit_groups = _found(network, IMAGES)
    assert [g.name for g in unit_groups.groups] == [
        "stem", "widen + 2 more", "squeeze", "narrow", "hidden",
    ]  # fmt: skip
    kept = _half(unit_groups)
    smaller: Any = remove_units(network, unit_groups.groups, kept)
    assert (smaller.depth.groups, smaller.depth.in_channels, smaller.narrow.in_channels) == (
        6,
        6,
        9,
    )
    expected = all_scores(zero_units(network, unit_groups.groups, kept), IMAGES).numpy()
    np.testing.assert_allclose(all_scores(smaller, IMAGES).numpy(), expected, atol=1e-6)
    left = update_groups(unit_groups.groups, kept)
    assert {g.name: g.size for g in _found(smaller, IMAGES).groups} == {
        g.name: g.size for g in left
    }


class _Softmax(nn.Module):
    """A layer whose units are not independent: the graph takes softmax for elementwise."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.bound, self.head = nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.softmax(self.bound(F.relu(self.free(x))), 1))
        return logits


class _InputAdded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.same, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x + self.same(x))
        return logits


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.two(torch.tanh(self.one(x)))))
        return logits


class _Grouped(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1),
            nn.Conv2d(8, 8, 3, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("network", "samples", "groups", "notes"),
    [
        (_Softmax(), VECTORS, ["free"], ["bound left alone: removing some of its units is not"]),
        (_InputAdded(), VECTORS, [], ["same left alone: without some of its units the network"]),
        (
            _Tied(),
            VECTORS,
            [],
            ["one left alone: one.weight, two.weight belongs", "two left alone: two.weight bel"],
        ),
        (
            _Grouped(),
            IMAGES,
            [],
            [
                "0 left alone: it reaches '1', a GroupNorm",
                "2 left alone: '3' is a grouped convolution",
                "3 left alone: '3' is a grouped convolution",
            ],
        ),
        (nn.Sequential(nn.Linear(8, 3)), VECTORS, [], []),
    ],
)
def test_what_is_not_understood_is_left_alone_by_name(
    network: nn.Module, samples: Samples, groups: list[str], notes: list[str]
) -> None:
    unit_groups = _found(network, samples)
    assert [group.name for group in unit_groups.groups] == groups
    assert len(unit_groups.notes) == len(notes)
    for note, start in zip(unit_groups.notes, notes, strict=True):
        assert note.startswith(start)


class _Between(nn.Module):
    """A few units, and what the graph takes for elementwise between them and their reader."""

    def __init__(self, size: int, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.few, self.mix = nn.Linear(8, size), mix
        self.head = nn.Linear(mix(torch.ones(1, size)).shape[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.mix(self.few(x)))
        return logits


def _gated(x: Tensor) -> Tensor:
    value, gate = x.chunk(2, 1)
    return value * torch.sigmoid(gate)


@pytest.mark.parametrize("size", [2, 3, 4, 6])
@pytest.mark.parametrize(
    "mix",
    [
        pytest.param(partial(torch.cumsum, dim=1), id="cumsum"),
        pytest.param(lambda x: x.flip(1).cumsum(1).flip(1), id="cumsum from the end"),
        pytest.param(partial(torch.flip, dims=(1,)), id="flip"),
        pytest.param(_gated, id="gate"),
        pytest.param(partial(torch.roll, shifts=1, dims=1), id="roll"),
    ],
)
def test_few_units_do_not_pass_by_luck(size: int, mix: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    assert _found(_Between(size, mix), VECTORS).groups == ()


class _Counting(nn.Module):
    """Changes a parameter as it runs, which autograd does not allow, so it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.head = nn.Parameter(torch.zeros(1)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x * self.calls.add_(1))
        return logits


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    with pytest.raises(ValueError, match="dependencies cannot be traced: a leaf Variable"):
        _found(_Counting(), VECTORS)


class _TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.shown, self.head = nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shown = torch.relu(self.shown(torch.relu(self.hidden(x))))
        logits = self.head(shown)
        return logits, shown, logits.argmax(1)


def test_no_output_of_several_is_pruned() -> None:
    unit_groups = _found(_TwoOutputs(), VECTORS)
    assert ([group.name for group in unit_groups.groups], unit_groups.notes) == (["hidden"], ())


def test_finding_leaves_the_network_as_it_was() -> None:
    network = tiny_conv.network().train()
    network.stem.weight.requires_grad_(False)
    find_unit_groups(network, tiny_conv.split(10).samples)
    assert network.training
    assert not network.stem.weight.requires_grad
    assert not any(module._forward_hooks for module in network.modules())


def test_a_group_never_loses_its_last_unit() -> None:
    unit_groups = find_unit_groups(tiny.network(), tiny.split(9).samples)
    with pytest.raises(ValueError, match="layer '2' would be left without neurons"):
        remove_units(tiny.network(), unit_groups.groups, {"2": np.zeros(tiny.HIDDEN, dtype=bool)})


def test_layers_are_excluded_by_pattern() -> None:
    unit_groups = find_unit_groups(tiny_attention.network(), tiny_attention.split(9).samples)
    left = unit_groups.without(("layers.*.inner", "embedding"))
    assert [group.name for group in left.groups] == ["layers.0.attention", "layers.1.attention"]
    with pytest.raises(ValueError, match=r"exclude: 'inner' names none of embedding, layers\.0"):
        unit_groups.without(("inner",))


SCORES = {"0": np.arange(16.0), "2": np.arange(16.0)[::-1] + 100.0}


@pytest.mark.parametrize("share", [0.01, 0.3, 0.62, 0.9])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_just_so_many_units_go_that_the_share_is_gone(share: float, scope: Scope) -> None:
    network = tiny.network()
    groups = find_unit_groups(network, tiny.split(9).samples).groups
    counter = ParameterCounter(network, groups)
    kept = choose(groups, SCORES, counter, share=share, scope=scope, limits=Limits())
    gone = 1 - counter.left(kept) / counter.total
    one_unit = (tiny.INPUTS + 1 + tiny.HIDDEN) / counter.total
    assert share <= gone <= share + one_unit
    sizes = {name: int(stays.sum()) for name, stays in kept.items()}
    assert (~kept["0"]).nonzero()[0].tolist() == list(range(16 - sizes["0"]))
    assert kept["2"].nonzero()[0].tolist() == list(range(sizes["2"]))
    if scope == "global":
        assert sizes["2"] == 16 or sizes["0"] == 1
    else:
        assert abs(sizes["0"] - sizes["2"]) <= 1


def test_what_stays_is_rounded_up_and_never_too_little() -> None:
    network = tiny.network()
    groups = find_unit_groups(network, tiny.split(9).samples).groups
    counter = ParameterCounter(network, groups)
    limits = Limits(round_to=4, min_units={"0": 7})
    kept = choose(groups, SCORES, counter, share=0.7, scope="global", limits=limits)
    assert {name: int(stays.sum()) for name, stays in kept.items()} == {"0": 8, "2": 4}
    with pytest.raises(ValueError, match=r"90.0% of the 467 parameters cannot be .* 73.7% at most"):
        choose(groups, SCORES, counter, share=0.9, scope="global", limits=limits)

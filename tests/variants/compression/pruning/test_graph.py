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
from variants.model.dataset import Samples
from variants.model.forward import all_scores

VECTORS = {"x": np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)}
IMAGES = {"x": np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)}


def _find(network: nn.Module, samples: Samples) -> UnitGroups:
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
def test_removing_units_equals_zeroing_the_weights_that_read_them(
    module: Any, names: list[str]
) -> None:
    network, samples = module.network(), module.split(50, seed=5).samples
    unit_groups = find_unit_groups(network, samples)
    assert [group.name for group in unit_groups.groups] == names
    assert unit_groups.notes == ()
    kept = _half(unit_groups)
    smaller = remove_units(network, unit_groups.groups, kept)
    silenced = zero_units(network, unit_groups.groups, kept)
    expected = all_scores(silenced, samples).numpy()
    np.testing.assert_allclose(all_scores(smaller, samples).numpy(), expected, atol=2e-6)
    assert np.abs(all_scores(network, samples).numpy() - expected).max() > 0.01
    counter = ParameterCounter(network, unit_groups.groups)
    assert counter.total == sum(p.numel() for p in network.parameters())
    assert counter.count_kept(kept) == sum(p.numel() for p in smaller.parameters()) < counter.total
    traced_again = find_unit_groups(smaller, samples)
    updated = update_groups(unit_groups.groups, kept)
    assert [(g.name, g.size) for g in traced_again.groups] == [(g.name, g.size) for g in updated]
    for one, other in zip(traced_again.groups, updated, strict=True):
        places = {(m.name, m.axis): m.units.tolist() for m in other.tensors}
        assert {(m.name, m.axis): m.units.tolist() for m in one.tensors} == places


def test_removing_a_channel_of_a_residual_network_equals_zeroing_its_norm() -> None:
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


def test_depthwise_concatenated_and_flattened_channels_are_traced() -> None:
    torch.manual_seed(0)
    network = _Mobile().eval()
    unit_groups = _find(network, IMAGES)
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
    updated = update_groups(unit_groups.groups, kept)
    assert {g.name: g.size for g in _find(smaller, IMAGES).groups} == {
        g.name: g.size for g in updated
    }


class _Softmax(nn.Module):
    """A layer whose units are not independent: the graph treats softmax as elementwise."""

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
        (
            _Softmax(),
            VECTORS,
            ["free"],
            ["bound is not pruned: removing some of its units affects"],
        ),
        (_InputAdded(), VECTORS, [], ["same is not pruned: the network fails if some of its"]),
        (
            _Tied(),
            VECTORS,
            [],
            [
                "one is not pruned: one.weight, two.weight is shared",
                "two is not pruned: two.weight is shared",
            ],
        ),
        (
            _Grouped(),
            IMAGES,
            [],
            [
                "0 is not pruned: it reaches '1', a GroupNorm",
                "2 is not pruned: '3' is a grouped convolution",
                "3 is not pruned: '3' is a grouped convolution",
            ],
        ),
        (nn.Sequential(nn.Linear(8, 3)), VECTORS, [], []),
    ],
)
def test_unsupported_layers_are_not_pruned_and_are_named(
    network: nn.Module, samples: Samples, groups: list[str], notes: list[str]
) -> None:
    unit_groups = _find(network, samples)
    assert [group.name for group in unit_groups.groups] == groups
    assert len(unit_groups.notes) == len(notes)
    for note, start in zip(unit_groups.notes, notes, strict=True):
        assert note.startswith(start)


class _Between(nn.Module):
    """A few units, then an operation that the graph treats as elementwise, then their reader."""

    def __init__(self, size: int, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.units, self.mix = nn.Linear(8, size), mix
        self.head = nn.Linear(mix(torch.ones(1, size)).shape[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.mix(self.units(x)))
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
def test_few_units_do_not_pass_the_check_by_chance(
    size: int, mix: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    assert _find(_Between(size, mix), VECTORS).groups == ()


class _Counting(nn.Module):
    """Changes a parameter in forward, which autograd rejects, so it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.head = nn.Parameter(torch.zeros(1)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x * self.calls.add_(1))
        return logits


def test_a_network_that_cannot_be_traced_raises() -> None:
    with pytest.raises(ValueError, match="dependencies cannot be traced: a leaf Variable"):
        _find(_Counting(), VECTORS)


class _TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.hidden_output, self.head = (
            nn.Linear(8, 6),
            nn.Linear(6, 5),
            nn.Linear(5, 3),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden_output = torch.relu(self.hidden_output(torch.relu(self.hidden(x))))
        logits = self.head(hidden_output)
        return logits, hidden_output, logits.argmax(1)


def test_none_of_several_outputs_is_pruned() -> None:
    unit_groups = _find(_TwoOutputs(), VECTORS)
    assert ([group.name for group in unit_groups.groups], unit_groups.notes) == (["hidden"], ())


def test_finding_groups_does_not_modify_the_network() -> None:
    network = tiny_conv.network().train()
    network.stem.weight.requires_grad_(False)
    find_unit_groups(network, tiny_conv.split(10).samples)
    assert network.training
    assert not network.stem.weight.requires_grad
    assert not any(module._forward_hooks for module in network.modules())


def test_a_group_never_loses_its_last_unit() -> None:
    unit_groups = find_unit_groups(tiny.network(), tiny.split(9).samples)
    with pytest.raises(ValueError, match="layer '2' would lose all its neurons"):
        remove_units(tiny.network(), unit_groups.groups, {"2": np.zeros(tiny.HIDDEN, dtype=bool)})


def test_layers_are_excluded_by_pattern() -> None:
    unit_groups = find_unit_groups(tiny_attention.network(), tiny_attention.split(9).samples)
    updated = unit_groups.exclude(("layers.*.inner", "embedding"))
    assert [group.name for group in updated.groups] == ["layers.0.attention", "layers.1.attention"]
    message = r"exclude: 'inner' matches no layer; the layers are embedding, layers\.0"
    with pytest.raises(ValueError, match=message):
        unit_groups.exclude(("inner",))

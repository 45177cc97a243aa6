from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import nn

from tests.small import quiet
from tests.variants import tiny, tiny_conv, two_inputs
from variants.compression.pruning.graph import find_unit_groups
from variants.compression.pruning.group import remove_units
from variants.compression.pruning.neurons import (
    RunningMoments,
    count_parameters,
    fold_means,
    measure_reader_moments,
    merge_by_group,
)

KEPT = {
    "0": np.arange(tiny.HIDDEN) % 3 != 0,
    "2": np.arange(tiny.HIDDEN) < 5,
}
VALUES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=30),
    elements=st.floats(-1e4, 1e4, width=32),
)


@given(values=VALUES, cuts=st.lists(st.integers(0, 30)))
def test_running_moments_equal_those_of_all_values(
    values: NDArray[np.float32], cuts: list[int]
) -> None:
    moments = RunningMoments(values.shape[1])
    for batch in np.split(values, sorted(cuts)):
        if len(batch):
            moments.update(batch)
    whole = values.astype(np.float64)
    assert (moments.count == len(values)).all()
    np.testing.assert_allclose(moments.mean, whole.mean(axis=0), rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(moments.deviation, whole.std(axis=0), rtol=1e-6, atol=1e-5)


@given(values=VALUES, seed=st.integers(0, 9))
def test_merged_moments_equal_those_of_all_mapped_values(
    values: NDArray[np.float32], seed: int
) -> None:
    places: NDArray[np.int64] = np.random.default_rng(seed).integers(-1, 3, values.shape[1:])
    columns, merged = RunningMoments(values.shape[1]), RunningMoments(3)
    columns.update(values)
    merged.merge(columns, places)
    merged.merge(columns, places)  # every value twice: the same moments
    for place in range(3):
        whole = values[:, places == place].astype(np.float64)
        assert merged.count[place] == 2 * whole.size
        if whole.size:
            assert merged.mean[place] == pytest.approx(whole.mean(), rel=1e-9, abs=1e-8)
            assert merged.deviation[place] == pytest.approx(whole.std(), rel=1e-6, abs=1e-5)


def test_moments_do_not_cancel_far_from_zero() -> None:
    values = 1e8 + np.random.default_rng(0).standard_normal((1000, 1))
    moments = RunningMoments(1)
    for batch in np.split(values, 10):
        moments.update(batch)
    assert moments.deviation == pytest.approx(values.std(axis=0), rel=1e-6)


def test_neurons_are_measured_after_the_activation_over_all_batches() -> None:
    network, samples = tiny.network(), tiny.split(300).samples  # 2 whole batches and a part
    groups = find_unit_groups(network, samples).groups
    moments = merge_by_group(groups, measure_reader_moments(network, groups, samples, quiet()))
    for name, end in (("0", 2), ("2", 4)):
        activations = tiny.answers(network[:end], samples).astype(np.float64)
        np.testing.assert_allclose(moments[name].mean, activations.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(moments[name].deviation, activations.std(axis=0), atol=1e-6)


def test_channels_are_measured_over_all_pixels_in_every_reader() -> None:
    network, samples = tiny_conv.network(), tiny_conv.split(150).samples
    groups = find_unit_groups(network, samples).groups
    moments = merge_by_group(groups, measure_reader_moments(network, groups, samples, quiet()))
    with torch.no_grad():
        images = torch.from_numpy(samples["input"])
        stem = network.pool(torch.relu(network.stem_norm(network.stem(images))))
        inner = torch.relu(network.widen_norm(network.widen(stem)))
        last = torch.relu(stem + network.narrow_norm(network.narrow(inner))).mean((2, 3))
    whole = inner.movedim(1, -1).reshape(-1, 16).double().numpy()
    np.testing.assert_allclose(moments["widen"].mean, whole.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments["widen"].deviation, whole.std(0), rtol=1e-5)
    read = np.concatenate([stem.movedim(1, -1).reshape(-1, 8).numpy(), last.numpy()])
    np.testing.assert_allclose(moments["stem + narrow"].mean, read.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments["stem + narrow"].deviation, read.std(0), rtol=1e-5)


def test_measuring_leaves_no_hooks() -> None:
    network, samples = tiny.network(), tiny.split(10).samples
    measure_reader_moments(network, find_unit_groups(network, samples).groups, samples, quiet())
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_module_whose_fast_path_bypasses_its_layers_is_measured() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 6, dropout=0.0, batch_first=True)
    network = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 3)).eval()
    samples = {"x": np.random.default_rng(0).standard_normal((9, 3, 8)).astype(np.float32)}
    groups = find_unit_groups(network, samples).groups
    assert [group.name for group in groups] == ["0.linear1"]
    moments = measure_reader_moments(network, groups, samples, quiet())
    assert (moments["0.linear2"].count == 27).all()


def test_removing_neurons_shrinks_layers_of_a_copy() -> None:
    network, samples = tiny.network(), tiny.split(10).samples
    before = count_parameters(network)
    smaller: Any = remove_units(network, find_unit_groups(network, samples).groups, KEPT)
    assert [tuple(p.shape) for p in smaller.parameters()] == [
        (10, 8), (10,), (5, 10), (5,), (3, 5), (3,),
    ]  # fmt: skip
    assert (smaller[2].in_features, smaller[2].out_features) == (10, 5)
    assert count_parameters(network) == before


def test_with_folded_means_the_reader_is_exact_on_average() -> None:
    network, samples = tiny.network(), tiny.split(300).samples
    groups, kept = find_unit_groups(network, samples).groups, {"0": KEPT["0"]}
    folded, notes = fold_means(
        network, groups, kept, measure_reader_moments(network, groups, samples, quiet())
    )
    smaller: Any = remove_units(folded, groups, kept)
    outputs = tiny.answers(smaller[:3], samples)
    np.testing.assert_allclose(
        outputs.mean(axis=0), tiny.answers(network[:3], samples).mean(axis=0), atol=1e-5
    )
    assert notes == ()


def test_each_reader_folds_its_own_means() -> None:
    network, samples = two_inputs.network(), two_inputs.split(200).samples
    groups = find_unit_groups(network, samples).groups
    kept = {"embedding": np.arange(8) % 2 == 0, "hidden": np.arange(16) > 4}
    moments = measure_reader_moments(network, groups, samples, quiet())
    folded: Any = fold_means(network, groups, kept, moments)[0]
    removed_means = moments["hidden"].mean[~kept["embedding"]]
    expected = network.hidden.bias.detach().numpy() + (
        network.hidden.weight.detach().numpy()[:, ~kept["embedding"]] @ removed_means
    )
    np.testing.assert_allclose(folded.hidden.bias.detach().numpy(), expected, atol=1e-6)


def _constant(padding: int, *, bias: bool) -> nn.Sequential:
    """A network whose second channel is 0.7 everywhere, read by a 3x3 convolution."""
    network: Any = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=padding, bias=bias), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4),
    )  # fmt: skip
    with torch.no_grad():
        network[0].weight[1] = 0
        network[0].bias[1] = 0.7
    built: nn.Sequential = network.eval()
    return built


def test_a_constant_channel_is_folded_into_a_convolution_without_padding() -> None:
    torch.manual_seed(0)
    network, samples = _constant(0, bias=True), tiny_conv.split(30).samples
    groups, kept = find_unit_groups(network, samples).groups, {"0": np.arange(4) != 1}
    moments = measure_reader_moments(network, groups, samples, quiet())
    folded, notes = fold_means(network, groups, kept, moments)
    smaller = remove_units(folded, groups, kept)
    np.testing.assert_allclose(
        tiny.answers(smaller, samples), tiny.answers(network, samples), atol=1e-6
    )
    assert notes == ()


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (_constant(1, bias=True), "it pads, so that fewer inputs contribute at its edges"),
        (_constant(0, bias=False), "it has no bias"),
    ],
)
def test_means_are_not_folded_where_that_is_not_exact(network: nn.Module, reason: str) -> None:
    samples = tiny_conv.split(9).samples
    groups = find_unit_groups(network, samples).groups
    moments = measure_reader_moments(network, groups, samples, quiet())
    folded, notes = fold_means(network, groups, {"0": np.arange(4) != 1}, moments)
    assert notes == (f"means not folded into 2: {reason}",)
    assert all(
        torch.equal(a, b) for a, b in zip(folded.parameters(), network.parameters(), strict=True)
    )

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import nn

from tests.small import quiet
from tests.variants import tiny
from variants.neurons import (
    Moments,
    count_parameters,
    fold_means,
    measure_neurons,
    remove_neurons,
    stack,
)

KEPT = {
    "0": np.arange(tiny.HIDDEN) % 3 != 0,
    "2": np.arange(tiny.HIDDEN) < 5,
}


@given(
    values=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=30),
        elements=st.floats(-1e4, 1e4, width=32),
    ),
    cuts=st.lists(st.integers(0, 30)),
)
def test_running_moments_are_those_of_everything(
    values: NDArray[np.float32], cuts: list[int]
) -> None:
    moments = Moments(values.shape[1])
    for batch in np.split(values, sorted(cuts)):
        if len(batch):
            moments.update(batch)
    whole = values.astype(np.float64)
    assert moments.count == len(values)
    np.testing.assert_allclose(moments.mean, whole.mean(axis=0), rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(moments.deviation, whole.std(axis=0), rtol=1e-6, atol=1e-5)


def test_moments_do_not_cancel_far_from_zero() -> None:
    values = 1e8 + np.random.default_rng(0).standard_normal((1000, 1))
    moments = Moments(1)
    for batch in np.split(values, 10):
        moments.update(batch)
    assert moments.deviation == pytest.approx(values.std(axis=0), rel=1e-6)


def test_neurons_are_measured_after_their_activation_over_all_batches() -> None:
    network, samples = tiny.network(), tiny.split(1500).samples  # 2 whole batches and a part
    moments = measure_neurons(network, samples, quiet())
    for name, upto in (("0", 2), ("2", 4)):
        said = tiny.answers(network[:upto], samples).astype(np.float64)
        np.testing.assert_allclose(moments[name].mean, said.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(moments[name].deviation, said.std(axis=0), atol=1e-6)


def test_measuring_leaves_no_hooks() -> None:
    network = tiny.network()
    measure_neurons(network, tiny.split(10).samples, quiet())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_removing_neurons_equals_zeroing_them() -> None:
    network, samples = tiny.network(), tiny.split(50).samples
    smaller = remove_neurons(network, KEPT)
    hidden = tiny.answers(network[:2], samples) * KEPT["0"]
    hidden = tiny.answers(network[2:4], hidden) * KEPT["2"]
    expected = tiny.answers(network[4:], hidden)
    np.testing.assert_allclose(tiny.answers(smaller, samples), expected, atol=1e-6)


def test_removing_neurons_makes_layers_smaller_and_leaves_the_original() -> None:
    network = tiny.network()
    before = count_parameters(network)
    smaller = remove_neurons(network, KEPT)
    assert [tuple(p.shape) for p in smaller.parameters()] == [
        (10, 8), (10,), (5, 10), (5,), (3, 5), (3,),
    ]  # fmt: skip
    assert (smaller[2].in_features, smaller[2].out_features) == (10, 5)  # type: ignore[index]
    assert count_parameters(network) == before


def test_a_layer_never_loses_its_last_neuron() -> None:
    with pytest.raises(ValueError, match="layer '2' would be left without neurons"):
        remove_neurons(tiny.network(), {"2": np.zeros(tiny.HIDDEN, dtype=bool)})


def test_folded_means_make_the_reader_exact_on_average() -> None:
    network, samples = tiny.network(), tiny.split(300).samples
    kept = {"0": KEPT["0"]}
    folded = fold_means(network, kept, measure_neurons(network, samples, quiet()))
    smaller = remove_neurons(folded, kept)
    heard = tiny.answers(smaller[:3], samples)  # type: ignore[index]
    np.testing.assert_allclose(
        heard.mean(axis=0), tiny.answers(network[:3], samples).mean(axis=0), atol=1e-5
    )


class _Branching(nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + 1


@pytest.mark.parametrize(
    ("network", "message"),
    [
        pytest.param(_Branching(), "got _Branching", id="own forward"),
        pytest.param(nn.Sequential(nn.Linear(2, 2)), "fewer than 2 Linear", id="nothing hidden"),
        pytest.param(
            nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2)),
            "module '1', a LayerNorm",
            id="mixes neurons",
        ),
    ],
)
def test_other_structures_are_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stack(network)


def test_what_comes_before_the_first_and_after_the_last_layer_does_not_matter() -> None:
    network = nn.Sequential(nn.LayerNorm(8), *tiny.network(), nn.Softmax(dim=-1))
    assert [layer.name for layer in stack(network)] == ["1", "3"]

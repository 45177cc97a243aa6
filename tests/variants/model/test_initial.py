from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.variants import tiny, tiny_conv
from variants.model.initial import initialise


def test_weights_are_those_of_a_network_built_with_that_seed_in_some_order() -> None:
    made = initialise(tiny.network(seed=3), seed=0)
    weight = made.get_parameter("2.weight").detach()
    bound = 1 / tiny.HIDDEN**0.5
    assert 0.9 * bound < weight.abs().max() <= bound
    assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_the_seed_decides_and_the_given_network_stays() -> None:
    given = tiny_conv.network(seed=3)
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    first, again, other = (initialise(given, seed).state_dict() for seed in (0, 0, 1))
    for name, tensor in given.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert torch.equal(first[name], again[name])
        is_random = name.split(".")[0] in ("stem", "widen", "narrow", "head")
        assert torch.equal(first[name], other[name]) != is_random
        if tensor.numel() > 1:
            assert not torch.equal(first[name], tensor)


def test_statistics_of_normalisations_begin_anew() -> None:
    made = initialise(tiny_conv.network(), 0)
    assert torch.equal(made.get_buffer("stem_norm.running_mean"), torch.zeros(tiny_conv.CHANNELS))
    assert torch.equal(made.get_buffer("stem_norm.running_var"), torch.ones(tiny_conv.CHANNELS))


def test_attention_draws_its_own_and_its_last_bias_is_zero() -> None:
    given = nn.MultiheadAttention(8, 2)
    with torch.no_grad():
        given.in_proj_weight.zero_()
        given.out_proj.bias.fill_(1)
    made = initialise(given, 0)
    assert made.get_parameter("in_proj_weight").abs().min() > 0
    assert not made.get_parameter("out_proj.bias").any()


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


def test_parameters_that_nobody_can_draw_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1, a _Scaled, has parameters \(scale\) and no reset"):
        initialise(nn.Sequential(nn.Linear(3, 3), _Scaled()), 0)

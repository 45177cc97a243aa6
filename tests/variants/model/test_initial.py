from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.variants import tiny, tiny_conv
from variants.model.initial import initialize


def test_weights_have_the_distribution_of_the_constructor() -> None:
    initialized = initialize(tiny.network(seed=3), seed=0)
    weight = initialized.get_parameter("2.weight").detach()
    bound = 1 / tiny.HIDDEN**0.5
    assert 0.9 * bound < weight.abs().max() <= bound
    assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_the_seed_determines_the_weights_and_the_original_is_not_modified() -> None:
    original = tiny_conv.network(seed=3)
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    first, again, other = (initialize(original, seed).state_dict() for seed in (0, 0, 1))
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert torch.equal(first[name], again[name])
        is_random = name.split(".")[0] in ("stem", "widen", "narrow", "head")
        assert torch.equal(first[name], other[name]) != is_random
        if tensor.numel() > 1:
            assert not torch.equal(first[name], tensor)


def test_running_statistics_are_reset() -> None:
    initialized = initialize(tiny_conv.network(), 0)
    mean, variance = (initialized.get_buffer(f"stem_norm.running_{x}") for x in ("mean", "var"))
    assert torch.equal(mean, torch.zeros(tiny_conv.CHANNELS))
    assert torch.equal(variance, torch.ones(tiny_conv.CHANNELS))


def test_attention_is_initialized_with_a_zero_output_bias() -> None:
    attention = nn.MultiheadAttention(8, 2)
    with torch.no_grad():
        attention.in_proj_weight.zero_()
        attention.out_proj.bias.fill_(1)
    initialized = initialize(attention, 0)
    assert initialized.get_parameter("in_proj_weight").abs().min() > 0
    assert not initialized.get_parameter("out_proj.bias").any()


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


def test_parameters_without_an_initialization_method_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"1, a _Scaled, has parameters \(scale\) but no reset"):
        initialize(nn.Sequential(nn.Linear(3, 3), _Scaled()), 0)

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.small import quiet
from tests.variants import tiny_attention, two_inputs
from variants.compression.quantization.smoothing import (
    SmoothingGroup,
    find_groups,
    largest_activations,
    smooth,
)
from variants.model.dataset import Samples
from variants.model.forward import all_scores

WIDTH = 8


class PreNorm(nn.Module):
    """A block as in GPT: only Linear layers read each LayerNorm, and two read the first."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        x = x + torch.sigmoid(self.query(normed)) * self.value(normed)
        x = x + self.down(torch.relu(self.up(self.last_norm(x))))
        logits: Tensor = self.head(x.mean(1))
        return logits


def network() -> PreNorm:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = PreNorm().eval()
    with torch.no_grad():
        built.norm.weight[2] = 60.0
        for reader in (built.query, built.value):
            reader.weight[:, 2] /= 30
    return built


def samples(count: int = 70) -> Samples:
    x = np.random.default_rng(0).standard_normal((count, 5, WIDTH)).astype(np.float32)
    return {"x": x}


GROUPS = {
    SmoothingGroup("norm.weight", "norm.bias", ("query.weight", "value.weight")),
    SmoothingGroup("last_norm.weight", "last_norm.bias", ("up.weight",)),
    SmoothingGroup("up.weight", "up.bias", ("down.weight",)),
}


def test_a_group_is_a_producer_with_all_its_readers() -> None:
    groups, notes = find_groups(network(), samples())
    assert set(groups.values()) == GROUPS
    assert notes == ()


def test_the_function_stays_and_the_largest_channel_shrinks() -> None:
    original, smoothed = network(), network()
    groups, _ = find_groups(original, samples())
    largest = largest_activations(original, samples(), groups, quiet())
    for node, group in groups.items():
        smooth(smoothed, group, largest[node], 0.5)
    assert torch.allclose(
        all_scores(smoothed, samples()), all_scores(original, samples()), atol=1e-5
    )
    shrunk = largest_activations(smoothed, samples(), groups, quiet())
    outlier = next(node for node, group in groups.items() if group.weight == "norm.weight")
    before, after = largest[outlier], shrunk[outlier]
    assert before.argmax() == 2
    assert before.max() / before.median() > 30
    assert after.max() / after.median() < 8


def test_scales_are_those_of_the_paper() -> None:
    built = network()
    weights = torch.stack([built.query.weight.abs().amax(0), built.value.weight.abs().amax(0)])
    largest = torch.arange(0.0, 8.0)
    group = SmoothingGroup("norm.weight", "norm.bias", ("query.weight", "value.weight"))
    before = copy.deepcopy(built)
    scales = smooth(built, group, largest, 0.75)
    expected = largest**0.75 / weights.amax(0).detach() ** 0.25
    assert torch.allclose(scales[1:], expected[1:])
    assert scales[0] == 1  # all activations of the channel are zero
    assert torch.allclose(built.value.weight, before.value.weight * scales)
    assert torch.allclose(built.norm.weight, before.norm.weight / scales)
    assert torch.allclose(built.norm.bias, before.norm.bias / scales)


def test_largest_activations_are_over_all_full_batches() -> None:
    built, inputs = network(), samples(70)
    groups, _ = find_groups(built, inputs)
    node = next(node for node, group in groups.items() if group.weight == "norm.weight")
    largest = largest_activations(built, inputs, groups, quiet())[node]
    normed = built.norm(torch.from_numpy(inputs["x"][:64])).abs().flatten(0, 1).amax(0)
    assert torch.allclose(largest, normed, rtol=1e-5)


def test_layer_norms_with_a_residual_connection_are_skipped_and_named() -> None:
    built = tiny_attention.network()
    groups, notes = find_groups(built, tiny_attention.split(40).samples)
    assert all("norm" not in group.weight for group in groups.values())
    assert len(notes) == sum(isinstance(module, nn.LayerNorm) for module in built.modules())
    reason = "it is read by add.Tensor, not only by Linear layers"
    assert sum(reason in note for note in notes) >= 3


def test_two_linear_layers_with_a_relu_between_them_are_a_group() -> None:
    groups, _ = find_groups(two_inputs.network(), two_inputs.split(40).samples)
    assert list(groups.values()) == [
        SmoothingGroup("hidden.weight", "hidden.bias", ("head.weight",))
    ]


@pytest.mark.parametrize("activation", [nn.GELU(), nn.Sigmoid()], ids=["gelu", "sigmoid"])
def test_two_linear_layers_with_another_activation_are_not_a_group(activation: nn.Module) -> None:
    stack = nn.Sequential(nn.Linear(WIDTH, 4), activation, nn.Linear(4, 2)).eval()
    assert find_groups(stack, {"x": samples()["x"][:, 0]}) == ({}, ())


class Twice(nn.Module):
    """Uses a parameter twice in an operator: as input and weight, and as weight and bias."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(WIDTH) + 1)
        self.vector = nn.Parameter(torch.ones(WIDTH))
        self.first, self.second = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        read: Tensor = self.first(F.linear(self.matrix, self.matrix)).sum()
        normed = F.layer_norm(x, (WIDTH,), self.vector, self.vector)
        scores: Tensor = self.second(normed).mean(1) + read
        return scores


def test_a_parameter_that_one_operator_reads_twice_is_refused() -> None:
    groups, notes = find_groups(Twice().eval(), samples())
    assert (groups, notes) == ({}, ("vector is not smoothed: vector is used more than once",))


class Constants(nn.Module):
    """Has weights that are a buffer, a tensor, and a parameter that is not registered."""

    buffer: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("buffer", torch.ones(WIDTH, WIDTH))
        self.tensor, self.listed = torch.ones(WIDTH), [nn.Parameter(torch.ones(3, WIDTH))]

    def forward(self, x: Tensor) -> Tensor:
        read = F.linear(F.linear(x, self.buffer), self.listed[0])
        normed = F.linear(F.layer_norm(x, (WIDTH,), self.tensor), self.listed[0])
        return (read + normed).mean(1)


def test_a_weight_that_is_not_a_parameter_is_refused() -> None:
    groups, notes = find_groups(Constants().eval(), samples())
    assert (groups, notes) == ({}, ("tensor is not smoothed: tensor is not a parameter",))


class OneVector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start, self.hidden = nn.Parameter(torch.ones(WIDTH)), nn.Linear(WIDTH, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = x.mean((1, 2))[:, None] + self.last(self.hidden(self.start))
        return scores


def test_an_activation_may_be_a_single_vector() -> None:
    built = OneVector().eval()
    groups, _ = find_groups(built, samples())
    (largest,) = largest_activations(built, samples(), groups, quiet()).values()
    assert torch.allclose(largest, built.hidden(built.start).abs())

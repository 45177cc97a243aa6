from __future__ import annotations

from typing import get_args

import pytest
import torch

from tests.small import quiet
from tests.variants import tiny, tiny_conv
from variants.compression.sparsity.criteria import Criterion, score
from variants.compression.sparsity.layers import find_layers
from variants.model.forward import tensors

SPLIT = tiny.split(200)


def _scores(criterion: Criterion, seed: int = 0) -> dict[str, torch.Tensor]:
    network = tiny.network()
    return score(network, find_layers(network)[0], {}, criterion, SPLIT, seed, quiet())


@pytest.mark.parametrize("criterion", get_args(Criterion))
def test_every_criterion_scores_every_weight(criterion: Criterion) -> None:
    network = tiny_conv.network()
    layers, _ = find_layers(network)
    scores = score(network, layers, {}, criterion, tiny_conv.split(40), 0, quiet())
    assert list(scores) == list(layers)
    for name, layer in layers.items():
        assert scores[name].shape == (len(layer.weight), layer.weight[0].numel())
        assert (scores[name] >= 0).all()
        assert scores[name].std() > 0


def test_scores_equal_their_definitions() -> None:
    network = tiny.network()
    weight = network.get_parameter("2.weight").detach()
    with torch.inference_mode():
        inputs = network[:2](*tensors(SPLIT.samples))
    torch.testing.assert_close(_scores("magnitude")["2"], weight.abs())
    torch.testing.assert_close(_scores("wanda")["2"], weight.abs() * inputs.norm(dim=0))
    torch.testing.assert_close(_scores("activation")["2"], weight.abs() * inputs.abs().mean(dim=0))
    torch.testing.assert_close(_scores("taylor")["2"], _scores("gradient")["2"] * weight.abs())


def test_random_scores_depend_on_the_seed_only() -> None:
    first, again, other = (_scores("random", seed)["0"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("criterion", get_args(Criterion))
def test_masked_weights_score_below_all_others(criterion: Criterion) -> None:
    network = tiny.network()
    mask = torch.arange(tiny.HIDDEN * tiny.HIDDEN).reshape(tiny.HIDDEN, -1) % 3 > 0
    layers, _ = find_layers(network)
    scores = score(network, layers, {"2.weight": mask}, criterion, SPLIT, 0, quiet())
    assert torch.equal(scores["2"] == -torch.inf, ~mask)
    assert (scores["0"] >= 0).all()

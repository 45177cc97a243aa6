from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.small import quiet
from tests.variants import tiny
from variants.training import Schedule, accuracy, fit, predict

SCHEDULE = Schedule(epochs=6, batch_size=32, learning_rate=1e-2)


def _trained(schedule: Schedule = SCHEDULE) -> nn.Module:
    network = tiny.network()
    fit(network, tiny.split(600), schedule, quiet())
    return network


def test_training_learns() -> None:
    held_out = tiny.split(300, seed=5)
    assert accuracy(tiny.network(), held_out) < 0.6
    assert accuracy(_trained(), held_out) > 0.9


def test_training_is_decided_by_its_seed() -> None:
    first, again = _trained(), _trained()
    other = _trained(SCHEDULE.model_copy(update={"seed": 1}))
    weights = [network.get_parameter("0.weight") for network in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    _trained()
    assert torch.equal(torch.rand(1), expected)


def test_masked_weights_are_zero_after_every_step() -> None:
    network = tiny.network()
    mask = torch.arange(tiny.INPUTS).expand(tiny.HIDDEN, -1) % 2 == 0
    seen: list[bool] = []
    with torch.no_grad():
        network.get_parameter("0.weight").mul_(mask)
    network.register_forward_pre_hook(
        lambda module, _: seen.append(bool((module.get_parameter("0.weight")[~mask] == 0).all()))
    )
    fit(network, tiny.split(200), SCHEDULE, quiet(), masks={"0.weight": mask})
    assert len(seen) == 6 * 7
    assert all(seen)


def test_a_trained_network_is_ready_to_be_asked() -> None:
    assert not _trained().training


def test_predict_and_accuracy() -> None:
    identity, split = nn.Identity(), tiny.split(3000)
    expected = torch.from_numpy(split.samples).argmax(dim=1)
    assert torch.equal(predict(identity, split.samples), expected)
    assert accuracy(identity, split) == pytest.approx((expected.numpy() == split.labels).mean())

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.small import quiet
from tests.variants import tiny, tiny_conv, two_inputs
from variants.model.dataset import Split
from variants.model.forward import all_scores
from variants.model.training import Schedule, Teacher, accuracy, count_steps, fit, predict

SCHEDULE = Schedule(epochs=6, batch_size=32, learning_rate=1e-2)


def _trained(schedule: Schedule = SCHEDULE) -> nn.Module:
    network = tiny.network()
    fit(network, tiny.split(600), schedule, quiet())
    return network


def test_training_learns() -> None:
    held_out = tiny.split(300, seed=5)
    assert accuracy(tiny.network(), held_out) < 0.6
    assert accuracy(_trained(), held_out) > 0.9


@pytest.mark.parametrize(
    ("kind", "before", "after"), [(two_inputs, 0.5, 0.8), (tiny_conv, 0.4, 0.9)]
)
def test_networks_of_any_inputs_and_layers_learn(
    kind: ModuleType, before: float, after: float
) -> None:
    network, held_out = kind.network(), kind.split(300, seed=5)
    assert accuracy(network, held_out) < before
    fit(network, kind.split(600), SCHEDULE.model_copy(update={"epochs": 12}), quiet())
    assert accuracy(network, held_out) > after


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


@pytest.mark.parametrize(
    ("kind", "name"), [(two_inputs, "embedding.weight"), (tiny_conv, "widen.weight")]
)
def test_weights_of_any_layer_can_be_masked(kind: ModuleType, name: str) -> None:
    network = kind.network()
    weight = network.get_parameter(name)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    before = weight.detach().clone()
    fit(network, kind.split(64), SCHEDULE, quiet(), masks={name: mask})
    assert (weight[~mask] == 0).all()
    assert (weight[mask] != before[mask]).any()


def _gradient(network: nn.Module, split: Split, teacher: Teacher | None) -> Tensor:
    """Return the loss's gradient by each of the scores `[n, classes]`, in the split's order."""
    seen: dict[str, Tensor] = {}

    def keep(module: nn.Module, given: tuple[Tensor, ...], answers: Tensor) -> None:
        seen["inputs"] = given[0]
        answers.register_hook(  # type: ignore[no-untyped-call]  # torch has no types here
            lambda gradient: seen.update(gradient=gradient)
        )

    with network.register_forward_hook(keep):
        fit(network, split, Schedule(epochs=1, batch_size=len(split)), quiet(), teacher=teacher)
    samples = torch.from_numpy(split.samples["input"])
    order = [int((seen["inputs"] == sample).all(dim=1).nonzero()) for sample in samples]
    return seen["gradient"].float()[order]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_cross_entropy_and_the_share_of_the_divergence_from_the_teacher(
    share: float, temperature: float
) -> None:
    split = tiny.split(32)
    ours, theirs = (10 * all_scores(tiny.network(seed), split.samples) for seed in (0, 1))
    network, other = (nn.Sequential(*tiny.network(seed), _Tenfold()) for seed in (0, 1))
    gradient = _gradient(network, split, Teacher(other, share, temperature))
    # Of T² KL(p || q) = T² sum p log(p / q) with q = softmax(z / T), the derivative by z is
    # T (q - p); of the cross-entropy with the labels it is softmax(z) - labels.
    towards = (ours / temperature).softmax(1) - (theirs / temperature).softmax(1)
    labels = nn.functional.one_hot(torch.from_numpy(split.labels), tiny.CLASSES)
    expected = (1 - share) * (ours.softmax(1) - labels) + share * temperature * towards
    torch.testing.assert_close(gradient * len(split), expected, atol=0.02, rtol=0.02)


class _Tenfold(nn.Module):
    def forward(self, scores: Tensor) -> Tensor:
        return 10 * scores


def test_a_teacher_is_believed_against_the_labels() -> None:
    teacher, split = _trained(), tiny.split(600)
    shuffled = Split(split.samples, np.random.default_rng(0).permutation(split.labels))
    pupil, held_out = tiny.network(1), tiny.split(300, seed=5)
    fit(pupil, shuffled, SCHEDULE, quiet(), teacher=Teacher(teacher, 1.0, 4.0))
    agreed = predict(pupil, held_out.samples) == predict(teacher, held_out.samples)
    assert agreed.double().mean() > 0.9
    without = tiny.network(1)
    fit(without, shuffled, SCHEDULE, quiet())
    assert accuracy(without, held_out) < 0.6


def test_a_teacher_without_a_share_changes_nothing() -> None:
    alone, taught = tiny.network(), tiny.network()
    fit(alone, tiny.split(200), SCHEDULE, quiet())
    fit(taught, tiny.split(200), SCHEDULE, quiet(), teacher=Teacher(tiny.network(1), 0.0, 4.0))
    for ours, theirs in zip(alone.parameters(), taught.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_teacher_learns_nothing() -> None:
    teacher, expected = tiny_conv.network(1).train(), tiny_conv.network(1).state_dict()
    taught = Teacher(teacher, 0.5, 2.0)
    fit(tiny_conv.network(), tiny_conv.split(64), SCHEDULE, quiet(), teacher=taught)
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, expected[name])
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_trained_network_is_ready_to_be_asked() -> None:
    assert not _trained().training


def test_predict_and_accuracy() -> None:
    identity, split = nn.Identity(), tiny.split(3000)
    expected = torch.from_numpy(split.samples["input"]).argmax(dim=1)
    assert torch.equal(predict(identity, split.samples), expected)
    assert accuracy(identity, split) == pytest.approx((expected.numpy() == split.labels).mean())


def test_predict_takes_several_inputs_over_several_batches() -> None:
    network, samples = two_inputs.network(), two_inputs.split(1100, tokens=7).samples
    with torch.inference_mode():
        expected = network(*map(torch.from_numpy, samples.values())).argmax(dim=1)
    assert torch.equal(predict(network, samples), expected)


class _Recorder(nn.Module):
    """Takes samples and keeps them, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny.network()
        self.seen: list[Tensor] = []

    def forward(self, samples: Tensor) -> Tensor:
        self.seen.append(samples.clone())
        scores: Tensor = self.inner(samples)
        return scores


def test_only_some_steps_see_the_samples_of_those_steps() -> None:
    whole, part = _Recorder(), _Recorder()
    fit(whole, tiny.split(100), SCHEDULE, quiet())
    fit(part, tiny.split(100), SCHEDULE, quiet(), steps=range(5, 9))
    assert len(whole.seen) == count_steps(100, SCHEDULE) == 4 * 6
    assert len(part.seen) == 4
    assert all(map(torch.equal, part.seen, whole.seen[5:9]))


def test_all_steps_given_are_the_whole_training() -> None:
    given, network = _Recorder(), _Recorder()
    fit(given, tiny.split(100), SCHEDULE, quiet(), steps=range(24))
    fit(network, tiny.split(100), SCHEDULE, quiet())
    assert all(map(torch.equal, given.parameters(), network.parameters()))


@pytest.mark.parametrize(("step", "rate"), [(0, 1e-2 / 25), (3, 1e-2), (11, 5e-3)])
def test_a_step_has_the_learning_rate_of_its_place(step: int, rate: float) -> None:
    """The first step of AdamW moves every weight by the rate, whatever its gradient."""
    network, schedule = tiny.network(), Schedule(epochs=5, learning_rate=1e-2, weight_decay=0)
    before = network.get_parameter("4.bias").detach().clone()
    fit(network, tiny.split(1024), schedule, quiet(), steps=range(step, step + 1))
    moved = (network.get_parameter("4.bias").detach() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=0.05, atol=1e-9)


def test_no_steps_change_nothing() -> None:
    network = tiny.network()
    fit(network, tiny.split(100), SCHEDULE, quiet(), steps=range(0))
    assert all(map(torch.equal, network.parameters(), tiny.network().parameters()))


def test_a_last_batch_of_one_sample_does_not_upset_batch_norm() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(tiny.INPUTS, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    fit(network, tiny.split(33), Schedule(epochs=2, batch_size=32), quiet())
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())

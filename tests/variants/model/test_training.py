from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.small import quiet
from tests.variants import tiny, tiny_conv, two_inputs
from variants.catalog.hardware import hardware
from variants.model import training
from variants.model.dataset import Split
from variants.model.forward import all_scores
from variants.model.training import Schedule, Teacher, accuracy, count_steps, fit, predict

SCHEDULE = Schedule(epochs=6, batch_size=32, learning_rate=1e-2)


def _trained(schedule: Schedule = SCHEDULE) -> nn.Module:
    network = tiny.network()
    fit(network, tiny.split(600), schedule, quiet())
    return network


def test_training_increases_accuracy() -> None:
    held_out = tiny.split(300, seed=5)
    assert accuracy(tiny.network(), held_out) < 0.6
    assert accuracy(_trained(), held_out) > 0.9


@pytest.mark.parametrize(
    ("kind", "before", "after"), [(two_inputs, 0.5, 0.8), (tiny_conv, 0.4, 0.9)]
)
def test_networks_with_other_inputs_and_layers_can_be_trained(
    kind: ModuleType, before: float, after: float
) -> None:
    network, held_out = kind.network(), kind.split(300, seed=5)
    assert accuracy(network, held_out) < before
    fit(network, kind.split(600), SCHEDULE.model_copy(update={"epochs": 12}), quiet())
    assert accuracy(network, held_out) > after


def test_the_seed_determines_the_result() -> None:
    first, again = _trained(), _trained()
    other = _trained(SCHEDULE.model_copy(update={"seed": 1}))
    weights = [network.get_parameter("0.weight") for network in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16"])
def test_products_are_in_bf16_on_processors_that_multiply_it(
    monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    with_flag = hardware(1).model_copy(update={"flags": (flag,)})
    monkeypatch.setattr(training, "hardware", lambda threads: with_flag)
    network, computed = tiny.network(), set[torch.dtype]()
    network[0].register_forward_hook(lambda layer, given, result: computed.add(result.dtype))
    fit(network, tiny.split(600), SCHEDULE, quiet())
    assert computed == {torch.bfloat16}
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert accuracy(network, tiny.split(300, seed=5)) > 0.8


def test_training_does_not_change_the_global_random_state() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    _trained()
    assert torch.equal(torch.rand(1), expected)


def test_masked_weights_are_zero_after_every_step() -> None:
    network = tiny.network()
    mask = torch.arange(tiny.INPUTS).expand(tiny.HIDDEN, -1) % 2 == 0
    is_masked: list[bool] = []
    with torch.no_grad():
        network.get_parameter("0.weight").mul_(mask)
    network.register_forward_pre_hook(
        lambda module, _: is_masked.append(
            bool((module.get_parameter("0.weight")[~mask] == 0).all())
        )
    )
    fit(network, tiny.split(200), SCHEDULE, quiet(), masks={"0.weight": mask})
    assert len(is_masked) == 6 * 7
    assert all(is_masked)


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
    """Return the gradient of the loss by the logits `[n, classes]`, in the order of the split."""
    recorded: dict[str, Tensor] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        recorded["inputs"] = inputs[0]
        logits.register_hook(  # type: ignore[no-untyped-call]  # torch has no types here
            lambda gradient: recorded.update(gradient=gradient)
        )

    with network.register_forward_hook(record):
        fit(network, split, Schedule(epochs=1, batch_size=len(split)), quiet(), teacher=teacher)
    samples = torch.from_numpy(split.samples["input"])
    order = [int((recorded["inputs"] == sample).all(dim=1).nonzero()) for sample in samples]
    return recorded["gradient"].float()[order]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_combines_cross_entropy_and_the_divergence_from_the_teacher(
    share: float, temperature: float
) -> None:
    split = tiny.split(32)
    student, target = (10 * all_scores(tiny.network(seed), split.samples) for seed in (0, 1))
    network, other = (nn.Sequential(*tiny.network(seed), _Tenfold()) for seed in (0, 1))
    gradient = _gradient(network, split, Teacher(other, share, temperature))
    # The derivative of T² KL(p || q) with q = softmax(z / T) by z is T (q - p). That of the
    # cross-entropy is softmax(z) - labels.
    difference = (student / temperature).softmax(1) - (target / temperature).softmax(1)
    labels = nn.functional.one_hot(torch.from_numpy(split.labels), tiny.CLASSES)
    expected = (1 - share) * (student.softmax(1) - labels) + share * temperature * difference
    torch.testing.assert_close(gradient * len(split), expected, atol=0.02, rtol=0.02)


class _Tenfold(nn.Module):
    def forward(self, scores: Tensor) -> Tensor:
        return 10 * scores


def test_a_student_follows_its_teacher_instead_of_wrong_labels() -> None:
    teacher, split = _trained(), tiny.split(600)
    shuffled = Split(split.samples, np.random.default_rng(0).permutation(split.labels))
    student, held_out = tiny.network(1), tiny.split(300, seed=5)
    fit(student, shuffled, SCHEDULE, quiet(), teacher=Teacher(teacher, 1.0, 4.0))
    agreed = predict(student, held_out.samples) == predict(teacher, held_out.samples)
    assert agreed.double().mean() > 0.9
    without = tiny.network(1)
    fit(without, shuffled, SCHEDULE, quiet())
    assert accuracy(without, held_out) < 0.6


def test_a_teacher_with_share_0_has_no_effect() -> None:
    alone, student = tiny.network(), tiny.network()
    fit(alone, tiny.split(200), SCHEDULE, quiet())
    fit(student, tiny.split(200), SCHEDULE, quiet(), teacher=Teacher(tiny.network(1), 0.0, 4.0))
    assert all(map(torch.equal, alone.parameters(), student.parameters()))


def test_a_teacher_is_not_modified() -> None:
    teacher, expected = tiny_conv.network(1).train(), tiny_conv.network(1).state_dict()
    distillation = Teacher(teacher, 0.5, 2.0)
    fit(tiny_conv.network(), tiny_conv.split(64), SCHEDULE, quiet(), teacher=distillation)
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, expected[name])
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_trained_network_is_in_evaluation_mode() -> None:
    assert not _trained().training


def test_predict_and_accuracy() -> None:
    identity, split = nn.Identity(), tiny.split(3000)
    expected = torch.from_numpy(split.samples["input"]).argmax(dim=1)
    assert torch.equal(predict(identity, split.samples), expected)
    assert accuracy(identity, split) == pytest.approx((expected.numpy() == split.labels).mean())


def test_predict_with_several_inputs_and_batches() -> None:
    network, samples = two_inputs.network(), two_inputs.split(1100, tokens=7).samples
    with torch.inference_mode():
        expected = network(*map(torch.from_numpy, samples.values())).argmax(dim=1)
    assert torch.equal(predict(network, samples), expected)


class _Recorder(nn.Module):
    """Records the samples of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny.network()
        self.batches: list[Tensor] = []

    def forward(self, samples: Tensor) -> Tensor:
        self.batches.append(samples.clone())
        scores: Tensor = self.inner(samples)
        return scores


def test_selected_steps_use_the_samples_of_these_steps() -> None:
    whole, part = _Recorder(), _Recorder()
    fit(whole, tiny.split(100), SCHEDULE, quiet())
    fit(part, tiny.split(100), SCHEDULE, quiet(), steps=range(5, 9))
    assert len(whole.batches) == count_steps(100, SCHEDULE) == 4 * 6
    assert len(part.batches) == 4
    assert all(map(torch.equal, part.batches, whole.batches[5:9]))


def test_selecting_all_steps_is_the_whole_training() -> None:
    selected, network = _Recorder(), _Recorder()
    fit(selected, tiny.split(100), SCHEDULE, quiet(), steps=range(24))
    fit(network, tiny.split(100), SCHEDULE, quiet())
    assert all(map(torch.equal, selected.parameters(), network.parameters()))


@pytest.mark.parametrize(("step", "rate"), [(0, 1e-2 / 25), (3, 1e-2), (11, 5e-3)])
def test_a_selected_step_has_its_learning_rate(step: int, rate: float) -> None:
    """The first step of AdamW changes every weight by the learning rate."""
    network, schedule = tiny.network(), Schedule(epochs=5, learning_rate=1e-2, weight_decay=0)
    before = network.get_parameter("4.bias").detach().clone()
    fit(network, tiny.split(1024), schedule, quiet(), steps=range(step, step + 1))
    change = (network.get_parameter("4.bias").detach() - before).abs()
    torch.testing.assert_close(change, torch.full_like(change, rate), rtol=0.05, atol=1e-9)


def test_an_empty_range_of_steps_changes_nothing() -> None:
    network = tiny.network()
    fit(network, tiny.split(100), SCHEDULE, quiet(), steps=range(0))
    assert all(map(torch.equal, network.parameters(), tiny.network().parameters()))


def test_a_last_batch_of_one_sample_works_with_batch_norm() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(tiny.INPUTS, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    fit(network, tiny.split(33), Schedule(epochs=2, batch_size=32), quiet())
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch

from tests.small import quiet
from tests.variants import tiny, tiny_conv, two_inputs
from variants.catalog.recipe import Step
from variants.compression.sparsity.criteria import Criterion, score
from variants.compression.sparsity.layers import find_layers
from variants.compression.techniques import resolve
from variants.compression.techniques.int8 import Int8
from variants.compression.techniques.ramp import ramp
from variants.compression.techniques.recovery import Recover
from variants.compression.techniques.unstructured import Unstructured
from variants.model.state import CompressionState
from variants.model.training import Schedule, accuracy, fit

DATA = tiny.datasets().training_data


def _gone(made: CompressionState) -> dict[str, int]:
    return {name: int((~mask).sum()) for name, mask in made.masks.items()}


@pytest.mark.parametrize("criterion", get_args(Criterion))
def test_every_layer_loses_the_share_by_any_criterion(criterion: Criterion) -> None:
    technique = Unstructured(share=0.5, criterion=criterion, samples=64)
    made = technique.apply(tiny_conv.state(), tiny_conv.datasets().training_data, quiet())
    assert made.masks.keys() == {"stem.weight", "widen.weight", "narrow.weight", "head.weight"}
    for name, mask in made.masks.items():
        # Rows of 27 columns: 13 or 14 of them, the even one of the two nearest.
        expected = 8 * 14 if (name, criterion) == ("stem.weight", "wanda") else mask.numel() // 2
        assert int((~mask).sum()) == expected
        assert torch.equal(made.network.get_parameter(name) != 0, mask)
    assert f"by {criterion}" in made.notes[-1]


def test_the_smallest_weights_of_each_layer_go() -> None:
    made = Unstructured(share=0.75).apply(tiny.state(), DATA, quiet())
    assert _gone(made) == {"0.weight": 96, "2.weight": 192, "4.weight": 36}
    dense = tiny.network().state_dict()
    for name, mask in made.masks.items():
        assert dense[name][mask].abs().min() >= dense[name][~mask].abs().max()
        assert torch.equal(made.network.get_parameter(name)[mask], dense[name][mask])
    assert made.notes == ("324 of 432 weights are masked, by magnitude",)
    assert made.packed == frozenset()


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_shares_by_layer_leave_the_other_layers_whole(criterion: Criterion) -> None:
    technique = Unstructured(shares={"0": 0.25, "2": 0.75}, criterion=criterion)
    made = technique.apply(tiny.state(), DATA, quiet())
    assert _gone(made) == {"0.weight": 32, "2.weight": 192}
    assert "(by layer: 0 25.0%, 2 75.0%)" in made.notes[-1]


def test_shares_of_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="no layer 3, 9 to mask; there are 0, 2, 4"):
        Unstructured(shares={"3": 0.5, "9": 0.5}).apply(tiny.state(), DATA, quiet())


@pytest.mark.parametrize("given", [{}, {"share": 0.5, "shares": {"0": 0.5}}, {"shares": {}}])
def test_share_and_shares_are_two_ways(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give either share, for all layers, or shares by layer"):
        Unstructured(**given)


def test_shares_are_not_compared_globally() -> None:
    with pytest.raises(ValueError, match="the shares are by layer already"):
        Unstructured(shares={"0": 0.5}, scope="global")


def test_wanda_takes_the_share_of_each_output() -> None:
    made = Unstructured(share=0.5, criterion="wanda").apply(tiny.state(), DATA, quiet())
    assert all((mask.sum(dim=1) == mask.shape[1] // 2).all() for mask in made.masks.values())


@pytest.mark.parametrize("criterion", ["magnitude", "gradient", "activation", "taylor", "random"])
def test_globally_the_least_important_go_wherever_they_are(criterion: Criterion) -> None:
    technique = Unstructured(share=0.5, scope="global", criterion=criterion)
    made = technique.apply(tiny.state(), DATA, quiet())
    assert sum(_gone(made).values()) == 432 // 2
    network = tiny.network()
    layers, _ = find_layers(network)
    scores = score(network, layers, {}, criterion, DATA.train, 0, quiet())
    kept = torch.cat([scores[name][made.masks[f"{name}.weight"]] for name in scores])
    gone = torch.cat([scores[name][~made.masks[f"{name}.weight"]] for name in scores])
    assert kept.min() >= gone.max()
    share = _gone(made)["4.weight"] / 48
    assert f"4 {share:.1%})" in made.notes[-1]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"share": 0.5, "criterion": "wanda", "scope": "global"},
            "scope: .*wanda cannot be global",
        ),
        ({"share": 0.5, "criterion": "sparsegpt", "scope": "global"}, "scope: .*layer after layer"),
        ({"share": 1.0}, "share: .*less than 1"),
        ({}, "give either share"),
        ({"share": 0.5, "rounds": 0}, "rounds: .*greater than or equal to 1"),
        ({"share": 0.5, "recover": {"epochs": 1}}, "recover: .*between rounds, and there is 1"),
        ({"share": 0.5, "rounds": 2, "recover": {"epoch": 1}}, r"recover\.epoch: Extra inputs"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(
    parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(Step(technique="unstructured", parameters=parameters))


def test_layers_are_left_alone_when_told() -> None:
    made = Unstructured(share=0.5, exclude=("[24]",)).apply(tiny.state(), DATA, quiet())
    assert made.masks.keys() == {"0.weight"}
    with pytest.raises(ValueError, match="no layer to work on"):
        Unstructured(share=0.5, exclude=("*",)).apply(tiny.state(), DATA, quiet())


def test_one_after_the_other_it_takes_what_is_missing_and_revives_nothing() -> None:
    half = Unstructured(share=0.5).apply(tiny.state(), DATA, quiet())
    trained = Recover(epochs=1, batch_size=32).apply(half, DATA, quiet())
    for criterion in get_args(Criterion):
        most = Unstructured(share=0.75, criterion=criterion).apply(trained, DATA, quiet())
        assert _gone(most) == {"0.weight": 96, "2.weight": 192, "4.weight": 36}
        assert not any((most.masks[name] & ~mask).any() for name, mask in half.masks.items())
        for name, mask in most.masks.items():
            assert torch.equal(most.network.get_parameter(name) != 0, mask)
    less = Unstructured(share=0.25).apply(half, DATA, quiet())
    assert _gone(less) == _gone(half)


def _trained() -> CompressionState:
    given = tiny.state()
    schedule = Schedule(epochs=20, batch_size=32, learning_rate=1e-2)
    fit(given.network, DATA.train, schedule, quiet())
    return given


def test_rounds_with_recovery_between_them_beat_one_round() -> None:
    given, test = _trained(), tiny.datasets().test
    recovery = Schedule(epochs=10, batch_size=32, learning_rate=3e-3)
    slowly = Unstructured(share=0.9, rounds=4, recover=recovery)
    reached = [made.apply(given, DATA, quiet()) for made in (Unstructured(share=0.9), slowly)]
    assert _gone(reached[0]) == _gone(reached[1])
    for name, mask in reached[1].masks.items():
        assert torch.equal(reached[1].network.get_parameter(name) != 0, mask)
    at_once, in_rounds = (accuracy(made.network, test) for made in reached)
    assert accuracy(given.network, test) > 0.9
    assert in_rounds > at_once + 0.1


def test_two_rounds_are_a_step_a_recovery_and_a_step() -> None:
    schedule = {"epochs": 1, "batch_size": 32}
    rounds = Unstructured(share=0.8, rounds=2, recover=Schedule.model_validate(schedule))
    together = rounds.apply(tiny.state(), DATA, quiet())
    apart = tiny.state()
    for technique in (
        Unstructured(share=0.8 * ramp(1, 2)),
        Recover.model_validate(schedule),
        Unstructured(share=0.8),
    ):
        apart = technique.apply(apart, DATA, quiet())
    for name, weight in together.network.state_dict().items():
        assert torch.equal(weight, apart.network.state_dict()[name])


def test_rounds_without_recovery_take_the_same_by_magnitude() -> None:
    one, many = (
        Unstructured(share=0.8, rounds=rounds).apply(tiny.state(), DATA, quiet())
        for rounds in (1, 5)
    )
    assert all(torch.equal(one.masks[name], many.masks[name]) for name in one.masks)


def test_criteria_that_know_the_weight_keep_answers_much_closer_than_chance() -> None:
    given = _trained()
    samples = DATA.validation.samples
    dense = tiny.answers(given.network, samples)
    off = {}
    for criterion in get_args(Criterion):
        technique = Unstructured(share=0.5, criterion=criterion)
        made = technique.apply(given, DATA, quiet())
        off[criterion] = float(np.abs(tiny.answers(made.network, samples) - dense).mean())
    chance = min(off.pop("random"), off.pop("gradient"))  # which does not know the weight
    assert max(off.values()) < 0.6 * chance
    assert min(off, key=lambda name: off[name]) == "sparsegpt"


def test_pruning_then_recovery_then_int8() -> None:
    pruned = Unstructured(share=0.5, criterion="taylor").apply(tiny.state(), DATA, quiet())
    recovered = Recover(epochs=2, batch_size=32).apply(pruned, DATA, quiet())
    made = Int8(samples=50).apply(recovered, DATA, quiet())
    assert made.graph is not None
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load_model_from_string(made.graph).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2
    ]
    assert sum(int(np.count_nonzero(weight)) for weight in weights) <= 432 // 2


def test_two_inputs_of_variable_length_calibrate_too() -> None:
    made = Unstructured(share=0.5, criterion="sparsegpt").apply(
        two_inputs.state(), two_inputs.datasets().training_data, quiet()
    )
    assert _gone(made) == {"hidden.weight": 64, "head.weight": 24}

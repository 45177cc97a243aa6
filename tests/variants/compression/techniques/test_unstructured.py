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


def _masked_counts(result: CompressionState) -> dict[str, int]:
    return {name: int((~mask).sum()) for name, mask in result.masks.items()}


@pytest.mark.parametrize("criterion", get_args(Criterion))
def test_any_criterion_masks_the_share_of_every_layer(criterion: Criterion) -> None:
    technique = Unstructured(share=0.5, criterion=criterion, samples=64)
    result = technique.apply(tiny_conv.state(), tiny_conv.datasets().training_data, quiet())
    assert result.masks.keys() == {"stem.weight", "widen.weight", "narrow.weight", "head.weight"}
    for name, mask in result.masks.items():
        # Half of 27 columns, 13.5, is rounded to the even number.
        expected = 8 * 14 if (name, criterion) == ("stem.weight", "wanda") else mask.numel() // 2
        assert int((~mask).sum()) == expected
        assert torch.equal(result.network.get_parameter(name) != 0, mask)
    assert f"by {criterion}" in result.notes[-1]


def test_the_smallest_weights_of_each_layer_are_masked() -> None:
    result = Unstructured(share=0.75).apply(tiny.state(), DATA, quiet())
    assert _masked_counts(result) == {"0.weight": 96, "2.weight": 192, "4.weight": 36}
    dense = tiny.network().state_dict()
    for name, mask in result.masks.items():
        assert dense[name][mask].abs().min() >= dense[name][~mask].abs().max()
        assert torch.equal(result.network.get_parameter(name)[mask], dense[name][mask])
    assert result.notes == ("324 of 432 weights are masked by magnitude",)
    assert result.packed == {"0", "2", "4"}
    assert Unstructured(share=0.5).apply(tiny.state(), DATA, quiet()).packed == frozenset()


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_shares_by_layer_do_not_mask_other_layers(criterion: Criterion) -> None:
    technique = Unstructured(shares={"0": 0.25, "2": 0.75}, criterion=criterion)
    result = technique.apply(tiny.state(), DATA, quiet())
    assert _masked_counts(result) == {"0.weight": 32, "2.weight": 192}
    assert "(by layer: 0 25.0%, 2 75.0%)" in result.notes[-1]


def test_shares_of_unknown_layers_raise() -> None:
    with pytest.raises(
        ValueError, match="unknown layer 3, 9; the layers that can be masked are 0, 2, 4"
    ):
        Unstructured(shares={"3": 0.5, "9": 0.5}).apply(tiny.state(), DATA, quiet())


@pytest.mark.parametrize("parameters", [{}, {"share": 0.5, "shares": {"0": 0.5}}, {"shares": {}}])
def test_either_share_or_shares_must_be_set(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="set either share, for all layers, or shares, by layer"):
        Unstructured(**parameters)


def test_shares_with_the_scope_global_raise() -> None:
    with pytest.raises(ValueError, match="shares are set by layer, so the scope must be layer"):
        Unstructured(shares={"0": 0.5}, scope="global")


def test_wanda_masks_the_share_of_each_output() -> None:
    result = Unstructured(share=0.5, criterion="wanda").apply(tiny.state(), DATA, quiet())
    assert all((mask.sum(dim=1) == mask.shape[1] // 2).all() for mask in result.masks.values())


@pytest.mark.parametrize("criterion", ["magnitude", "gradient", "activation", "taylor", "random"])
def test_the_scope_global_masks_the_lowest_scores_of_all_layers(criterion: Criterion) -> None:
    technique = Unstructured(share=0.5, scope="global", criterion=criterion)
    result = technique.apply(tiny.state(), DATA, quiet())
    assert sum(_masked_counts(result).values()) == 432 // 2
    network = tiny.network()
    layers, _ = find_layers(network)
    scores = score(network, layers, {}, criterion, DATA.train, 0, quiet())
    kept = torch.cat([scores[name][result.masks[f"{name}.weight"]] for name in scores])
    removed = torch.cat([scores[name][~result.masks[f"{name}.weight"]] for name in scores])
    assert kept.min() >= removed.max()
    share = _masked_counts(result)["4.weight"] / 48
    assert f"4 {share:.1%})" in result.notes[-1]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"share": 0.5, "criterion": "wanda", "scope": "global"},
            "scope: .*wanda does not support the scope global",
        ),
        (
            {"share": 0.5, "criterion": "sparsegpt", "scope": "global"},
            "scope: .*one layer after the other",
        ),
        ({"share": 1.0}, "share: .*less than 1"),
        ({}, "set either share"),
        ({"share": 0.5, "rounds": 0}, "rounds: .*at least 1"),
        (
            {"share": 0.5, "recover": {"epochs": 1}},
            "recover: .*between rounds needs rounds of at least 2",
        ),
        (
            {"share": 0.5, "rounds": 2, "recover": {"epoch": 1}},
            r"recover\.epoch: there is no such field",
        ),
    ],
)
def test_invalid_parameters_raise(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(Step(technique="unstructured", parameters=parameters))


def test_excluded_layers_are_not_masked() -> None:
    result = Unstructured(share=0.5, exclude=("[24]",)).apply(tiny.state(), DATA, quiet())
    assert result.masks.keys() == {"0.weight"}
    with pytest.raises(
        ValueError, match="cannot be applied to any layer: there is no Linear or Conv2d"
    ):
        Unstructured(share=0.5, exclude=("*",)).apply(tiny.state(), DATA, quiet())


def test_a_second_step_masks_the_difference_and_restores_nothing() -> None:
    half = Unstructured(share=0.5).apply(tiny.state(), DATA, quiet())
    trained = Recover(epochs=1, batch_size=32).apply(half, DATA, quiet())
    for criterion in get_args(Criterion):
        most = Unstructured(share=0.75, criterion=criterion).apply(trained, DATA, quiet())
        assert _masked_counts(most) == {"0.weight": 96, "2.weight": 192, "4.weight": 36}
        assert not any((most.masks[name] & ~mask).any() for name, mask in half.masks.items())
        for name, mask in most.masks.items():
            assert torch.equal(most.network.get_parameter(name) != 0, mask)
    less = Unstructured(share=0.25).apply(half, DATA, quiet())
    assert _masked_counts(less) == _masked_counts(half)


def _trained() -> CompressionState:
    original = tiny.state()
    schedule = Schedule(epochs=20, batch_size=32, learning_rate=1e-2)
    fit(original.network, DATA.train, schedule, quiet())
    return original


def test_rounds_with_recovery_in_between_beat_one_round() -> None:
    original, test = _trained(), tiny.datasets().test
    recovery = Schedule(epochs=10, batch_size=32, learning_rate=3e-3)
    slowly = Unstructured(share=0.9, rounds=4, recover=recovery)
    results = [
        result.apply(original, DATA, quiet()) for result in (Unstructured(share=0.9), slowly)
    ]
    assert _masked_counts(results[0]) == _masked_counts(results[1])
    for name, mask in results[1].masks.items():
        assert torch.equal(results[1].network.get_parameter(name) != 0, mask)
    at_once, in_rounds = (accuracy(result.network, test) for result in results)
    assert accuracy(original.network, test) > 0.9
    assert in_rounds > at_once + 0.1


def test_two_rounds_equal_a_step_a_recovery_and_a_step() -> None:
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


def test_rounds_without_recovery_mask_the_same_weights_by_magnitude() -> None:
    one, many = (
        Unstructured(share=0.8, rounds=rounds).apply(tiny.state(), DATA, quiet())
        for rounds in (1, 5)
    )
    assert all(torch.equal(one.masks[name], many.masks[name]) for name in one.masks)


def test_criteria_that_use_the_weight_keep_outputs_much_closer_than_random() -> None:
    original = _trained()
    samples = DATA.validation.samples
    dense = tiny.answers(original.network, samples)
    errors = {}
    for criterion in get_args(Criterion):
        technique = Unstructured(share=0.5, criterion=criterion)
        result = technique.apply(original, DATA, quiet())
        errors[criterion] = float(np.abs(tiny.answers(result.network, samples) - dense).mean())
    baseline = min(errors.pop("random"), errors.pop("gradient"))  # gradient does not use the weight
    assert max(errors.values()) < 0.6 * baseline
    assert min(errors, key=lambda name: errors[name]) == "sparsegpt"


def test_pruning_then_recovery_then_int8() -> None:
    pruned = Unstructured(share=0.5, criterion="taylor").apply(tiny.state(), DATA, quiet())
    recovered = Recover(epochs=2, batch_size=32).apply(pruned, DATA, quiet())
    result = Int8(samples=50).apply(recovered, DATA, quiet())
    assert result.graph is not None
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load_model_from_string(result.graph).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2
    ]
    assert sum(int(np.count_nonzero(weight)) for weight in weights) <= 432 // 2


def test_a_network_of_two_inputs_of_variable_length_is_masked() -> None:
    result = Unstructured(share=0.5, criterion="sparsegpt").apply(
        two_inputs.state(), two_inputs.datasets().training_data, quiet()
    )
    assert _masked_counts(result) == {"hidden.weight": 64, "head.weight": 24}

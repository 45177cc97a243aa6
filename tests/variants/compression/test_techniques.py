from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tests.small import quiet
from tests.variants import tiny, tiny_conv, two_inputs
from variants.catalog.recipe import Step
from variants.compression.pruning.neurons import RunningMoments
from variants.compression.techniques import TECHNIQUES, resolve, resolve_all
from variants.compression.techniques.activation import ActivationPruning
from variants.model.loading import describe
from variants.model.state import Stage
from variants.runtime.onnx import OnnxRunner

DATA = tiny.datasets().training_data

PARAMETERS: dict[str, dict[str, Any]] = {
    "activation-pruning": {"mean_below": 0.3, "deviation_below": 0.4},
    "low-rank": {"break_even": 0.7},
    "recover": {"epochs": 1},
    "structured": {"share": 0.3},
    "unstructured": {"share": 0.5},
    "weight-sharing": {"values": 16},
}
"""For techniques that cannot be run without any."""


@pytest.mark.parametrize("brought", [tiny, tiny_conv, two_inputs], ids=["dense", "conv", "text"])
@pytest.mark.parametrize("kind", TECHNIQUES)
def test_apply_leaves_the_given_workpiece_and_its_interface_alone(
    kind: str, brought: ModuleType
) -> None:
    given, datasets = brought.state(), brought.datasets()
    before = copy.deepcopy(given.network.state_dict())
    technique = resolve(Step(technique=kind, parameters=PARAMETERS.get(kind, {})))
    try:
        made = technique.apply(given, datasets.training_data, quiet())
    except ValueError:  # it may not understand the structure, but for the simplest
        assert brought is not tiny
        made = given
    else:
        assert made is not given
        assert max(technique.yields, given.stage) == made.stage
    after = given.network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert (given.masks, given.graph, given.notes) == ({}, None, ())
    samples = datasets.test.samples
    assert describe(made.network, samples, datasets.axes) == made.interface == given.interface
    if made.graph is not None:
        assert OnnxRunner(made.graph, threads=1)(samples)["logits"].shape == (
            len(datasets.test),
            brought.CLASSES,
        )


def test_resolve() -> None:
    step = Step(
        technique="activation-pruning", parameters={"mean_below": 0.1, "deviation_below": 1}
    )
    assert resolve(step) == ActivationPruning(mean_below=0.1, deviation_below=1.0)


@pytest.mark.parametrize(
    ("technique", "parameters", "message"),
    [
        ("int3", {}, "unknown technique 'int3'; known: activation-pruning, "),
        ("int8", {"bits": 8}, "'int8': bits: .*; known: mode, samples, method"),
        ("int8", {"method": "guess"}, "'int8': method: .*'entropy', 'percentile' or 'auto'"),
        ("activation-pruning", {"mean_below": 0.1}, "share: .*give either mean_below and"),
        ("activation-pruning", {"mean_below": -1, "deviation_below": 0}, "than or equal to 0"),
        ("recover", {"epochs": 0}, "epochs: .*greater than or equal to 1"),
        ("recover", {"learning_rate": float("nan")}, "learning_rate: .*finite"),
    ],
)  # fmt: skip
def test_resolve_refuses(technique: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(Step(technique=technique, parameters=parameters))


def _recipe(*kinds: str) -> tuple[Step, ...]:
    return tuple(Step(technique=kind, parameters=PARAMETERS.get(kind, {})) for kind in kinds)


@pytest.mark.parametrize(
    "kinds",
    [
        (),
        ("activation-pruning", "recover", "sparse-n:m", "recover", "int8"),
        ("activation-pruning", "activation-pruning"),
        ("sparse-n:m", "sparse-n:m"),
    ],
)
def test_orders_that_work(kinds: tuple[str, ...]) -> None:
    assert [technique.kind for technique in resolve_all(_recipe(*kinds))] == list(kinds)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        pytest.param(("int8", kind), f"step 2, '{kind}', cannot follow 'int8': .*graph", id=kind)
        for kind, cls in TECHNIQUES.items()
        if cls.accepts < Stage.GRAPH
    ]
    + [
        pytest.param(
            ("sparse-n:m", "recover", "activation-pruning"),
            "step 3, 'activation-pruning', cannot follow 'sparse-n:m': some weights must stay zero",
            id="removing neurons regroups masked weights",
        )
    ],
)
def test_orders_that_cannot_work_are_refused(kinds: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_all(_recipe(*kinds))


@pytest.mark.parametrize(
    ("mean", "deviation", "stays"),
    [
        pytest.param(0.0, 0.0, False, id="silent"),
        pytest.param(0.5, 0.0, True, id="constant but loud"),
        pytest.param(-0.5, 0.0, True, id="constant and negative"),
        pytest.param(0.0, 0.5, True, id="varies about zero"),
        pytest.param(0.09, 0.19, False, id="just below both"),
        pytest.param(0.1, 0.0, True, id="at the mean's threshold"),
        pytest.param(0.0, 0.2, True, id="at the deviation's threshold"),
    ],
)
def test_a_neuron_goes_when_mean_and_deviation_are_both_small(
    mean: float, deviation: float, stays: bool
) -> None:
    moments = RunningMoments(2)
    moments.update(np.array([[mean - deviation, 100.0], [mean + deviation, -100.0]]))
    kept = ActivationPruning(mean_below=0.1, deviation_below=0.2).choose({"0": moments})
    assert kept["0"].tolist() == [stays, True]


def test_a_layer_of_only_silent_neurons_keeps_the_liveliest() -> None:
    moments = RunningMoments(3)
    moments.update(np.array([[0.0, 0.1, 0.4], [0.0, 0.3, 0.4]]))
    kept = ActivationPruning(mean_below=9, deviation_below=9).choose({"0": moments})
    assert kept["0"].tolist() == [False, False, True]


def test_activation_pruning_makes_the_network_smaller_and_says_so() -> None:
    pruning = ActivationPruning(mean_below=0.3, deviation_below=0.4)
    pruned = pruning.apply(tiny.state(), DATA, quiet())
    left = pruned.network[0].out_features  # type: ignore[index]
    assert 0 < left < tiny.HIDDEN
    assert f"kept layer 0: {left} of {tiny.HIDDEN} neurons" in pruned.notes[0]

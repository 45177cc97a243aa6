from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.small import quiet
from tests.variants import tiny, tiny_conv, two_inputs
from tests.variants.compression.recipes import PARAMETERS, recipe
from variants.catalog.recipe import Step
from variants.catalog.techniques import FILE, known_techniques
from variants.compression.techniques import (
    TECHNIQUES,
    describe_techniques,
    render_techniques,
    resolve,
    resolve_all,
)
from variants.compression.techniques.activation import ActivationPruning
from variants.model.loading import describe_interface
from variants.runtime.onnx import OnnxRunner

DATA = tiny.datasets().training_data


@pytest.mark.parametrize("module", [tiny, tiny_conv, two_inputs], ids=["dense", "conv", "text"])
@pytest.mark.parametrize("kind", TECHNIQUES)
def test_apply_modifies_neither_the_given_state_nor_the_interface(
    kind: str, module: ModuleType
) -> None:
    original, datasets = module.state(), module.datasets()
    before = copy.deepcopy(original.network.state_dict())
    technique = resolve(Step(technique=kind, parameters=PARAMETERS.get(kind, {})))
    try:
        result = technique.apply(original, datasets.training_data, quiet())
    except ValueError:  # only the simplest structure must be supported
        assert module is not tiny
        result = original
    else:
        assert result is not original
        assert max(technique.yields, original.stage) == result.stage
    after = original.network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert (original.masks, original.graph, original.notes) == ({}, None, ())
    samples = datasets.test.samples
    assert (
        describe_interface(result.network, samples, datasets.axes)
        == result.interface
        == original.interface
    )
    if result.graph is not None:
        assert OnnxRunner(result.graph, threads=1)(samples)["logits"].shape == (
            len(datasets.test),
            module.CLASSES,
        )


def test_resolve() -> None:
    step = Step(
        technique="activation-pruning", parameters={"mean_below": 0.1, "deviation_below": 1}
    )
    assert resolve(step) == ActivationPruning(mean_below=0.1, deviation_below=1.0)


@pytest.mark.parametrize(
    ("technique", "parameters", "message"),
    [
        ("int3", {}, "unknown technique 'int3'; known techniques: activation-pruning, "),
        ("int8", {"bits": 8}, "'int8': bits: .*; known parameters: mode, samples, method"),
        ("int8", {"method": "guess"}, "'int8': method: .*'entropy', 'percentile' or 'auto'"),
        ("activation-pruning", {"mean_below": 0.1}, "share: .*set either both mean_below and"),
        ("activation-pruning", {"mean_below": -1, "deviation_below": 0}, "at least 0"),
        ("recover", {"epochs": 0}, "epochs: .*at least 1"),
        ("recover", {"learning_rate": float("nan")}, "learning_rate: .*finite"),
    ],
)  # fmt: skip
def test_resolve_raises_for_unknown_and_invalid_parameters(
    technique: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(Step(technique=technique, parameters=parameters))


@pytest.mark.parametrize(
    "kinds",
    [
        (),
        ("activation-pruning", "recover", "sparse-n:m", "recover", "int8"),
        ("activation-pruning", "activation-pruning"),
        ("sparse-n:m", "sparse-n:m"),
    ],
)
def test_valid_orders(kinds: tuple[str, ...]) -> None:
    assert [technique.kind for technique in resolve_all(recipe(*kinds))] == list(kinds)


def test_neurons_cannot_be_removed_after_weights_were_masked() -> None:
    message = "step 3, 'activation-pruning', cannot follow 'sparse-n:m': masked weights must stay"
    with pytest.raises(ValueError, match=message):
        resolve_all(recipe("sparse-n:m", "recover", "activation-pruning"))


def test_the_file_for_services_is_up_to_date() -> None:
    # `python -m variants.compression.techniques` writes it.
    assert FILE.read_bytes() == render_techniques()
    assert known_techniques() == describe_techniques()

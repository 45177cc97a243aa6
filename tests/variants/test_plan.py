from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
from torch import nn

from tests.small import quiet
from tests.variants import tiny
from variants.linear24 import Linear24
from variants.neurons import remove_neurons
from variants.plan import Layer, Plan, describe, rebuild
from variants.techniques.sparse24 import Sparse24

SAMPLES = tiny.split(20).samples


def test_a_pruned_and_sparse_network_is_rebuilt_from_its_plan_and_tensors() -> None:
    kept = {"0": np.arange(tiny.HIDDEN) < 12, "2": np.arange(tiny.HIDDEN) < 8}
    smaller = remove_neurons(tiny.network(), kept)
    given = tiny.workpiece()
    given = type(given)(smaller, given.inputs, given.outputs)
    sparse = Sparse24(min_rows=8).apply(given, tiny.datasets().material, quiet())
    plan, tensors = describe(sparse.network, sparse.packed)

    assert plan.layers == {
        "0": Layer(kind="linear-2:4", in_features=8, out_features=12),
        "2": Layer(kind="linear-2:4", in_features=12, out_features=8),
        "4": Layer(kind="linear", in_features=8, out_features=3),
    }
    assert "0.weight" not in tensors
    read = Plan.model_validate_json(plan.model_dump_json())
    rebuilt = rebuild(tiny.network(seed=1), read, safetensors.torch.save(tensors))
    assert isinstance(rebuilt.get_submodule("2"), Linear24)
    np.testing.assert_array_equal(
        tiny.answers(rebuilt, SAMPLES), tiny.answers(sparse.network, SAMPLES)
    )


def test_describing_leaves_the_network_alone() -> None:
    sparse = Sparse24().apply(tiny.workpiece(), tiny.datasets().material, quiet())
    describe(sparse.network, sparse.packed)
    assert isinstance(sparse.network.get_submodule("0"), nn.Linear)


def test_a_plan_for_another_network_is_refused() -> None:
    plan, tensors = describe(tiny.network(), frozenset())
    with pytest.raises(ValueError, match=r"layers \['0', '2', '4'\], the factory builds \['0'\]"):
        rebuild(nn.Sequential(nn.Linear(8, 3)), plan, safetensors.torch.save(tensors))


def test_tensors_that_do_not_fit_the_plan_are_refused() -> None:
    plan, tensors = describe(tiny.network(), frozenset())
    del tensors["4.weight"]
    with pytest.raises(ValueError, match=r"do not fit the plan: (?s:.*)4\.weight"):
        rebuild(tiny.network(), plan, safetensors.torch.save(tensors))

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tests.small import quiet
from tests.variants import tiny
from variants.linear24 import mask24
from variants.neurons import Moments
from variants.recipe import Step
from variants.runners.onnx import OnnxRunner
from variants.techniques import TECHNIQUES, resolve, resolve_all
from variants.techniques.activation import ActivationPruning
from variants.techniques.int8 import Int8
from variants.techniques.recovery import Recover
from variants.techniques.sparse24 import Sparse24

MATERIAL = tiny.datasets().material

PARAMETERS: dict[str, dict[str, Any]] = {
    "activation-pruning": {"mean_below": 0.3, "deviation_below": 0.4},
    "recover": {"epochs": 1},
}
"""For techniques that cannot be run without any."""


@pytest.mark.parametrize("kind", TECHNIQUES)
def test_apply_leaves_the_given_workpiece_alone(kind: str) -> None:
    given = tiny.workpiece()
    before = copy.deepcopy(given.network.state_dict())
    technique = resolve(Step(technique=kind, parameters=PARAMETERS.get(kind, {})))
    made = technique.apply(given, MATERIAL, quiet())
    after = given.network.state_dict()
    assert made is not given
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert (given.masks, given.graph, given.notes) == ({}, None, ())
    assert max(technique.yields, given.stage) == made.stage


def test_resolve() -> None:
    step = Step(
        technique="activation-pruning", parameters={"mean_below": 0.1, "deviation_below": 1}
    )
    assert resolve(step) == ActivationPruning(mean_below=0.1, deviation_below=1.0)


@pytest.mark.parametrize(
    ("technique", "parameters", "message"),
    [
        ("int3", {}, "known: activation-pruning, sparse-2:4, recover, int8"),
        ("int8", {"bits": 8}, "'int8': bits: .*; known: samples, method, per_channel"),
        ("int8", {"method": "guess"}, "'int8': method: .*'minmax', 'entropy' or 'percentile'"),
        ("activation-pruning", {"mean_below": 0.1}, "deviation_below: Field required"),
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
        ("activation-pruning", "recover", "sparse-2:4", "recover", "int8"),
        ("activation-pruning", "activation-pruning"),
        ("sparse-2:4", "sparse-2:4"),
    ],
)
def test_orders_that_work(kinds: tuple[str, ...]) -> None:
    assert [technique.kind for technique in resolve_all(_recipe(*kinds))] == list(kinds)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        pytest.param(("int8", kind), f"step 2, '{kind}', cannot follow 'int8': .*graph", id=kind)
        for kind in TECHNIQUES
    ]
    + [
        pytest.param(
            ("sparse-2:4", "recover", "activation-pruning"),
            "step 3, 'activation-pruning', cannot follow 'sparse-2:4': some weights must stay zero",
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
    moments = Moments(2)
    moments.update(np.array([[mean - deviation, 100.0], [mean + deviation, -100.0]]))
    kept = ActivationPruning(mean_below=0.1, deviation_below=0.2).choose({"0": moments})
    assert kept["0"].tolist() == [stays, True]


def test_a_layer_of_only_silent_neurons_keeps_the_liveliest() -> None:
    moments = Moments(3)
    moments.update(np.array([[0.0, 0.1, 0.4], [0.0, 0.3, 0.4]]))
    kept = ActivationPruning(mean_below=9, deviation_below=9).choose({"0": moments})
    assert kept["0"].tolist() == [False, False, True]


def test_activation_pruning_makes_the_network_smaller_and_says_so() -> None:
    pruning = ActivationPruning(mean_below=0.3, deviation_below=0.4)
    pruned = pruning.apply(tiny.workpiece(), MATERIAL, quiet())
    left = pruned.network[0].out_features  # type: ignore[index]
    assert 0 < left < tiny.HIDDEN
    assert f"kept layer 0: {left} of {tiny.HIDDEN} neurons" in pruned.notes[0]


def test_sparse24_masks_two_of_four_and_skips_the_head() -> None:
    sparse = Sparse24().apply(tiny.workpiece(), MATERIAL, quiet())
    assert sparse.packed == {"0", "2"}
    assert sparse.notes == ("layer 4 stays dense: 3 outputs are fewer than min_rows = 16",)
    dense = tiny.network().state_dict()
    for name, weight in sparse.network.state_dict().items():
        expected = mask24(dense[name]) * dense[name] if name in sparse.masks else dense[name]
        assert torch.equal(weight, expected)


def test_sparse24_takes_the_head_when_told() -> None:
    sparse = Sparse24(min_rows=1).apply(tiny.workpiece(), MATERIAL, quiet())
    assert sparse.packed == {"0", "2", "4"}


def test_sparse24_with_nothing_to_do_says_why() -> None:
    with pytest.raises(ValueError, match="no layer to work on: layer 0 stays dense: 16 outputs"):
        Sparse24(min_rows=100).apply(tiny.workpiece(), MATERIAL, quiet())


def test_recovery_learns_and_keeps_every_masked_weight_at_zero() -> None:
    sparse = Sparse24().apply(tiny.workpiece(), MATERIAL, quiet())
    recovered = Recover(epochs=3, batch_size=32).apply(sparse, MATERIAL, quiet())
    for name, mask in sparse.masks.items():
        weight = recovered.network.get_parameter(name)
        assert (weight[~mask] == 0).all()
        assert not torch.equal(weight, sparse.network.get_parameter(name))


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_int8_stores_signed_weights_and_answers_nearly_the_same(method: Any) -> None:
    given = tiny.workpiece()
    made = Int8(samples=100, method=method).apply(given, MATERIAL, quiet())
    assert made.graph is not None
    graph = onnx.load_model_from_string(made.graph).graph
    signed = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert len([tensor for tensor in signed if len(tensor.dims) == 2]) == 3
    samples = tiny.split(200, seed=9).samples
    outputs = OnnxRunner(made.graph, threads=1)({"input": samples})["logits"]
    expected = tiny.answers(given.network, samples)
    assert np.abs(outputs - expected).mean() < 0.03 * np.abs(expected).max()


@pytest.mark.parametrize(("reduce_range", "largest"), [(True, 64), (False, 128)])
def test_int8_weights_get_7_bits_where_8_would_saturate(reduce_range: bool, largest: int) -> None:
    made = Int8(samples=50, reduce_range=reduce_range).apply(tiny.workpiece(), MATERIAL, quiet())
    assert made.graph is not None
    graph = onnx.load_model_from_string(made.graph).graph
    weights = [
        onnx.numpy_helper.to_array(tensor).astype(int)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2
    ]
    assert largest / 2 < max(np.abs(weight).max() for weight in weights) <= largest
    assert f"weights of {7 if reduce_range else 8} bits" in made.notes[0]


def test_int8_keeps_masked_weights_at_zero() -> None:
    sparse = Sparse24().apply(tiny.workpiece(), MATERIAL, quiet())
    made = Int8(samples=50).apply(sparse, MATERIAL, quiet())
    assert made.graph is not None
    graph = onnx.load_model_from_string(made.graph).graph
    weights = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2
    }
    for name, mask in sparse.masks.items():
        stored = next(weight for key, weight in weights.items() if key.startswith(name))
        stored = stored if stored.shape == tuple(mask.shape) else stored.T
        assert (stored[~mask.numpy()] == 0).all()


def test_exporting_and_calibrating_say_nothing_and_warn_of_nothing() -> None:
    code = """if True:
        from tests.small import quiet
        from tests.variants import tiny
        from variants.techniques.int8 import Int8
        Int8(method="entropy").apply(tiny.workpiece(), tiny.datasets().material, quiet())
    """
    command = [sys.executable, "-W", "error", "-c", code]
    process = subprocess.run(command, capture_output=True, check=False, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")

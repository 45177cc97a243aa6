"""Valid and invalid orders of steps, and one recipe from start to end."""

from __future__ import annotations

import pytest

from tests.small import quiet
from tests.variants import tiny
from tests.variants.compression.recipes import recipe
from variants.catalog.recipe import Step
from variants.compression.techniques import TECHNIQUES, resolve_all
from variants.model.state import Converter, Stage
from variants.runtime.onnx import OnnxRunner


@pytest.mark.parametrize(
    "kinds",
    [
        ("activation-pruning", "recover", "int8", "recover"),
        ("sparse-n:m", "recover", "int8", "recover", "recover"),
        ("unstructured", "smoothquant", "int8"),
        ("smoothquant", "low-rank", "recover", "int8"),
        ("fp16", "recover"),
        ("bf16", "recover"),
        ("sparse-n:m", "recover", "weight-sharing"),
    ],
    ids=" ".join,
)
def test_valid_orders(kinds: tuple[str, ...]) -> None:
    assert [technique.kind for technique in resolve_all(recipe(*kinds))] == list(kinds)


@pytest.mark.parametrize("kind", [k for k, cls in TECHNIQUES.items() if cls.accepts < Stage.GRAPH])
@pytest.mark.parametrize("maker", ["int8", "fp16", "bf16", "weight-sharing"])
def test_no_step_that_changes_the_network_can_follow_a_graph(maker: str, kind: str) -> None:
    message = f"step 2, '{kind}', cannot follow '{maker}': the model is an ONNX graph from"
    with pytest.raises(ValueError, match=message):
        resolve_all(recipe(maker, kind))


def test_after_a_graph_recovery_does_not_allow_changes_to_the_network() -> None:
    message = "step 4, 'unstructured', cannot follow 'int8': the model is an ONNX graph"
    with pytest.raises(ValueError, match=message):
        resolve_all(recipe("unstructured", "int8", "recover", "unstructured"))


def test_recovery_cannot_follow_a_step_that_cannot_rebuild_its_graph() -> None:
    message = (
        "step 2, 'recover', cannot follow 'weight-sharing': the graph of 'weight-sharing' cannot"
    )
    with pytest.raises(ValueError, match=message):
        resolve_all(recipe("weight-sharing", "recover"))


def test_techniques_that_can_rebuild_their_graph() -> None:
    makers = {kind for kind, cls in TECHNIQUES.items() if cls.yields is Stage.GRAPH}
    rebuilders = {kind for kind in makers if hasattr(TECHNIQUES[kind], "simulate")}
    assert rebuilders == {"int8", "fp16", "bf16"}
    assert isinstance(resolve_all(recipe("int8"))[0], Converter)


def test_pruned_recovered_quantized_and_recovered_again() -> None:
    test, qualities = tiny.split(500, seed=9), []
    train = {"epochs": 5, "batch_size": 32, "learning_rate": 1e-2}
    steps = (
        Step(technique="unstructured", parameters={"share": 0.5}),
        Step(technique="recover", parameters=train),
        Step(technique="int8", parameters={"reduce_range": True, "per_channel": False}),
        Step(technique="recover", parameters=train),
    )
    state, data = tiny.state(), tiny.datasets().training_data
    for technique in resolve_all(steps):
        state = technique.apply(state, data, quiet())
        if state.graph is not None:
            scores = OnnxRunner(state.graph, threads=1)(test.samples)["logits"]
            qualities.append(float((scores.argmax(axis=1) == test.labels).mean()))
    assert len(qualities) == 2
    assert qualities[1] >= qualities[0] > 0.7
    for name, mask in state.masks.items():
        assert (state.network.get_parameter(name)[~mask] == 0).all()
    assert state.stage is Stage.GRAPH

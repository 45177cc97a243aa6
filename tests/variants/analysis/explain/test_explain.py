"""Variants constructed to be no faster, each for its own reason: real artifacts, profiled."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from torch import Tensor, nn

from tests.small import quiet
from tests.variants import tiny_conv, two_inputs
from variants.analysis.explain.explain import Explanation, beside, explain, inspect
from variants.analysis.explain.graph import Graph
from variants.analysis.explain.reason import RULES, Code, Facts, LayerTiming, Side, reasons
from variants.analysis.explain.report import markdown, sentences, table
from variants.analysis.explain.timeline import onnx_ops, torch_ops
from variants.build.build import CATALOG_FILE, create_artifact
from variants.catalog import artifact
from variants.catalog.catalog import Interval, Model, Variant
from variants.catalog.recipe import DENSE
from variants.catalog.record import read_record
from variants.catalog.sample_request import write_sample
from variants.compression.techniques.int8 import Int8
from variants.model.dataset import Split, TrainingData
from variants.model.loading import describe
from variants.model.state import CompressionState
from variants.runtime import plan
from variants.runtime.linear24 import mask24

INPUTS, HIDDEN, CLASSES = 64, 96, 8
SAMPLES = {"input": np.random.default_rng(0).standard_normal((40, INPUTS)).astype(np.float32)}
SPLIT = Split(SAMPLES, np.zeros(40, np.int64))
DATA = TrainingData(SPLIT, SPLIT)
SLOWER = Interval(value=0.9, low=0.8, high=0.95)
FASTER = Interval(value=1.2, low=1.1, high=1.3)


def network(hidden: int = HIDDEN) -> nn.Sequential:
    """Layers 0 and 2; what `factory` of the catalog's model builds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(INPUTS, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES)
        ).eval()


def state(given: nn.Module | None = None, **fields: Any) -> CompressionState:
    whole = network()
    chosen = given or whole
    interface = describe(chosen, SAMPLES, {})
    return CompressionState(chosen, interface, dense=whole, **fields)


def weight(module: nn.Module) -> Tensor:
    found = module.get_submodule("0").weight
    assert isinstance(found, Tensor)
    return found


@cache
def dense() -> dict[str, bytes]:
    return create_artifact(state(), DATA)[1]


def masked() -> dict[str, bytes]:
    chosen = network()
    with torch.no_grad():
        weight(chosen)[:, ::2] = 0
    return create_artifact(state(chosen), DATA)[1]


def padded() -> dict[str, bytes]:
    chosen = network()
    with torch.no_grad():
        weight(chosen)[-16:] = 0
    return create_artifact(state(chosen), DATA)[1]


def int8() -> dict[str, bytes]:
    made = Int8(samples=16).apply(state(), DATA, quiet()).graph
    assert made is not None
    return {"model.onnx": made}


def rewritten(change: Callable[[onnx.GraphProto, onnx.TensorProto], None]) -> dict[str, bytes]:
    """Return dense with the weight of layer 0 stored in another way."""
    model = onnx.load_model_from_string(dense()["model.onnx"])
    tensor = next(one for one in model.graph.initializer if one.name == "0.weight")
    change(model.graph, tensor)
    return {"model.onnx": model.SerializeToString()}


def as_float16(graph: onnx.GraphProto, tensor: onnx.TensorProto) -> None:
    values = numpy_helper.to_array(tensor).astype(np.float16)
    tensor.CopyFrom(numpy_helper.from_array(values, "0.weight.half"))
    graph.node.insert(
        0, helper.make_node("Cast", ["0.weight.half"], ["0.weight"], to=TensorProto.FLOAT)
    )


def as_weight_only_int8(graph: onnx.GraphProto, tensor: onnx.TensorProto) -> None:
    values = numpy_helper.to_array(tensor)
    scale = np.float32(np.abs(values).max() / 127)
    codes = np.round(values / scale).astype(np.int8)
    tensor.CopyFrom(numpy_helper.from_array(codes, "0.weight_quantized"))
    graph.initializer.append(numpy_helper.from_array(np.array(scale), "0.weight_scale"))
    inputs = ["0.weight_quantized", "0.weight_scale"]
    graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, ["0.weight"]))


def packed() -> dict[str, bytes]:
    chosen = network()
    mask = mask24(weight(chosen).detach())
    with torch.no_grad():
        weight(chosen).mul_(mask)
    made = state(chosen, masks={"0.weight": mask}, packed=frozenset({"0"}))
    return create_artifact(made, DATA)[1]


MADE: Mapping[str, Callable[[], dict[str, bytes]]] = {
    "masked": masked,
    "padded": padded,
    "odd": lambda: create_artifact(state(network(93)), DATA)[1],
    "int8": int8,
    "half": lambda: rewritten(as_float16),
    "weight-only": lambda: rewritten(as_weight_only_int8),
    "packed": packed,
}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of the variants above, not measured."""
    folder = tmp_path_factory.mktemp("explained")
    interface = describe(network(), SAMPLES, {})
    model = Model(
        name="two-layers",
        factory=f"{__name__}:network",
        weights_sha256="",
        datasets_sha256="",
        inputs=interface.inputs,
        outputs=interface.outputs,
    )
    made: dict[str, Callable[[], dict[str, bytes]]] = {DENSE: dense, **MADE}
    for name, make in made.items():
        files = make()
        runner = "torch" if plan.PLAN in files else "onnx"
        variant = Variant(name=name, recipe=(), runner=runner, files=())
        artifact.save(folder, variant, files)
    write_sample(folder, model, SAMPLES)
    artifact.write_record(folder / CATALOG_FILE, model)
    return folder


@pytest.fixture(scope="module")
def look(catalog: Path) -> Callable[[str], Facts]:
    @cache
    def facts(name: str) -> Facts:
        """Return the facts of a variant, its speed made up and all else as it is."""
        model = read_record(Model, catalog / CATALOG_FILE)
        variants = {
            which: read_record(Variant, catalog / which / artifact.RECORD)
            for which in (DENSE, name)
        }
        batch = {"input": SAMPLES["input"][:4]}
        (dense_ops, dense_weights), (ops, weights) = (
            inspect(catalog, model, variant, batch, 1) for variant in variants.values()
        )
        return Facts(
            batch_size=4,
            runner=variants[name].runner,
            dense_runner="onnx",
            speedup=SLOWER,
            speedups={},
            seconds=1e-6,
            dense_seconds=1e-6,  # less than the layers take: nothing is bound by overhead
            layers=beside(ops, weights, dense_ops, dense_weights),
            other_seconds={},
            notes=(),
        )

    return facts


def codes(facts: Facts) -> set[Code]:
    return {reason.code for reason in reasons(facts)}


def timed(facts: Facts, dense_s: float, variant_s: float) -> Facts:
    """Return the facts with these seconds for each weight of a layer."""

    def side(given: Side | None, seconds: float) -> Side | None:
        return given and replace(given, seconds=seconds * prod(given.shape))

    layers = tuple(
        LayerTiming(one.name, side(one.dense, dense_s), side(one.variant, variant_s))
        for one in facts.layers
    )
    return replace(facts, layers=layers)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("masked", {"mask-only"}),
        ("padded", {"padded"}),
        ("half", {"storage-only"}),
        ("weight-only", {"dequantised"}),
        ("int8", {"unexplained"}),
        ("odd", {"unexplained"}),
    ],
)
def test_the_graph_decides_the_code(
    look: Callable[[str], Facts], name: str, expected: set[Code]
) -> None:
    assert codes(timed(look(name), 1e-9, 1e-9)) == expected


def test_what_is_seen_of_a_layer_is_what_was_made_of_it(look: Callable[[str], Facts]) -> None:
    seen = {name: {layer.name: layer.variant for layer in look(name).layers} for name in MADE}
    assert all(list(layers) == ["0", "2"] for layers in seen.values())
    first = {name: layers["0"] for name, layers in seen.items()}
    assert all(side is not None and side.seconds > 0 for side in first.values())
    told = {n: (s.form, s.arithmetic, s.shape) for n, s in first.items() if s is not None}
    whole = (HIDDEN, INPUTS)
    assert told == {
        "masked": ("float32", "float32", whole),
        "padded": ("float32", "float32", whole),
        "odd": ("float32", "float32", (93, INPUTS)),
        "int8": ("int8", "int8", whole),
        "half": ("float16", "float32", whole),
        "weight-only": ("int8", "float32", whole),
        "packed": ("2:4", "float32", whole),
    }
    assert first["masked"] is not None
    assert first["masked"].zeros == pytest.approx(0.5)
    assert first["padded"] is not None
    assert first["padded"].padding == 16


def test_odd_channels_count_where_each_weight_takes_longer(look: Callable[[str], Facts]) -> None:
    (reason,) = reasons(timed(look("odd"), 1e-9, 1.5e-9))
    assert reason.code == "odd-channels"
    assert "0 96x64 to 93x64, 1.5x the time for each weight" in reason.text


def test_a_packed_layer_in_torch_is_in_the_wrong_runtime_if_it_takes_longer(
    look: Callable[[str], Facts],
) -> None:
    assert codes(timed(look("packed"), 1e-9, 2e-9)) == {"wrong-runtime", "storage-only"}
    assert codes(timed(look("packed"), 2e-9, 1e-9)) == {"storage-only"}


def test_a_faster_variant_needs_no_excuse(look: Callable[[str], Facts]) -> None:
    assert codes(replace(look("masked"), speedup=FASTER)) == {"none"}


def test_the_card_tells_on_which_side_of_the_crossover_a_batch_is(
    look: Callable[[str], Facts],
) -> None:
    facts = timed(look("int8"), 1e-9, 1e-9)
    past = replace(facts, speedups={1: FASTER, 2: FASTER, 4: SLOWER, 8: SLOWER})
    assert codes(past) == {"past-crossover"}
    assert "up to batch 2" in reasons(past)[0].text
    below = replace(facts, speedups={1: SLOWER, 4: SLOWER, 8: FASTER, 16: FASTER})
    assert codes(below) == {"below-crossover"}
    assert "from batch 8" in reasons(below)[0].text


def test_a_layer_left_dense_counts_where_it_takes_much_of_the_time(
    look: Callable[[str], Facts],
) -> None:
    facts = timed(look("int8"), 1e-9, 1e-9)
    noted = replace(
        facts, notes=("layer 0 stays dense: 62 inputs are no multiple of 4; and so on",)
    )
    own = prod((HIDDEN, INPUTS)) * 1e-9
    much = replace(noted, seconds=2 * own)
    assert reasons(much)[0].code == "unsupported-shape"
    assert "0 (50% of the time): 62 inputs are no multiple of 4" in reasons(much)[0].text
    assert codes(replace(noted, seconds=10 * own)) == {"unexplained"}


def test_conversions_and_overhead_count_by_their_time(look: Callable[[str], Facts]) -> None:
    facts = replace(timed(look("int8"), 1e-9, 1e-9), dense_seconds=7e-6)
    spent = {"QuantizeLinear": 5e-7, "DequantizeLinear": 4e-7, "Relu": 9e-6}
    assert codes(replace(facts, other_seconds=spent)) == {"conversion"}
    assert codes(replace(facts, dense_seconds=1e-4)) == {"overhead-bound"}


def test_every_code_has_a_rule() -> None:
    assert {*RULES, "none", "unexplained"} == set(Code.__args__)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def explanation(catalog: Path) -> Explanation:
    return explain(catalog, "masked", batch_size=2, seconds_per_point=0.01)


def test_a_variant_is_explained_layer_by_layer(explanation: Explanation) -> None:
    rows = {row.name: row for row in explanation.rows}
    assert {"0", "2"} <= rows.keys()
    assert rows["0"].kinds == rows["0"].dense_kinds == ("FusedGemm",)
    assert sum(row.share for row in explanation.rows) == pytest.approx(1)
    assert not explanation.is_from_card
    assert explanation.speedup.low < explanation.speedup.value < explanation.speedup.high
    shown = [row.seconds for row in explanation.rows]
    assert shown == sorted(shown, reverse=True)


def test_an_explanation_is_told_as_text_and_markdown(explanation: Explanation) -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table(explanation))
    assert "masked at batch 2" in capture.get()
    assert "FusedGemm" in capture.get()
    text = markdown(explanation)
    assert "| 0 | FusedGemm |" in text
    for sentence, reason in zip(sentences(explanation), explanation.reasons, strict=True):
        assert sentence == f"{reason.code}: {reason.text}"
        assert f"- **{reason.code}**: {reason.text}" in text


@pytest.mark.parametrize("name", ["dense", "missing"])
def test_only_a_variant_beside_dense_can_be_explained(catalog: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"no variant '{name}'"):
        explain(catalog, name)


def test_nodes_of_a_convolutional_network_are_told_by_layer() -> None:
    piece, samples = tiny_conv.state(), tiny_conv.split(4).samples
    model = create_artifact(piece, TrainingData(tiny_conv.split(4), tiny_conv.split(4)))[1][
        "model.onnx"
    ]
    layers = {name: stored.shape for name, stored in Graph(model).layers.items()}
    assert list(layers) == ["stem", "widen", "narrow", "head"]
    assert layers["widen"] == (16, 8, 3, 3)
    ops = onnx_ops(model, samples, threads=1, calls=3)
    assert {op.layer for op in ops if op.kind in ("Conv", "FusedConv", "Gemm", "FusedGemm")} == {
        "stem", "widen", "narrow", "head",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "attributes", "stored", "shape"),
    [
        ("MatMul", {}, (64, 96), (96, 64)),
        ("Gemm", {}, (64, 96), (96, 64)),
        ("Gemm", {"transB": 1}, (96, 64), (96, 64)),
        ("MatMul", {}, (64,), (1, 64)),
        ("ConvTranspose", {}, (8, 16, 3, 3), (16, 8, 3, 3)),
        ("FusedConv", {}, (16, 8, 3, 3), (16, 8, 3, 3)),
        ("QLinearConv", {}, (16, 8, 3, 3), (16, 8, 3, 3)),
    ],
)
def test_shapes_are_told_outputs_first(
    kind: str, attributes: dict[str, Any], stored: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    values = np.ones(stored, np.float32)
    values[-1:] = 0
    inputs = ["x", "s", "z", "a.weight"] if kind == "QLinearConv" else ["x", "a.weight"]
    node = helper.make_node(kind, inputs, ["y"], name="n", **attributes)
    tensor = numpy_helper.from_array(values, "a.weight")
    graph = helper.make_graph([node], "g", [], [], [tensor])
    layer = Graph(helper.make_model(graph).SerializeToString()).layers["a"]
    assert (layer.shape, layer.padding) == (shape, 0 if len(stored) == 1 else 1)
    assert layer.zeros == pytest.approx(1 / stored[0])


class Slow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.002)
        return x


def test_a_module_that_a_call_uses_thrice_counts_thrice() -> None:
    slow = Slow()
    (op,) = torch_ops(nn.Sequential(slow, slow, slow), SAMPLES, calls=3)
    assert op.seconds >= 0.006


def test_several_inputs_are_profiled_and_embeddings_are_layers_of_their_own() -> None:
    split = two_inputs.split(4)
    model = create_artifact(two_inputs.state(), TrainingData(split, split))[1]["model.onnx"]
    ops = onnx_ops(model, split.samples, threads=1, calls=3)
    assert {"embedding", "hidden", "head"} <= {op.layer for op in ops}
    assert list(Graph(model).layers) == ["hidden", "head"]

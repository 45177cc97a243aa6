"""Real artifacts, profiled, each constructed to be slow for a known reason."""

from __future__ import annotations

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
from variants.analysis.explain.evidence import Evidence, LayerExecution, LayerTiming
from variants.analysis.explain.explain import Explanation, explain, pair_layers, profile_variant
from variants.analysis.explain.reason import RULES, Code, reasons
from variants.analysis.explain.report import markdown, sentences, table
from variants.build.build import CATALOG_FILE, create_artifact
from variants.catalog import artifact
from variants.catalog.catalog import Interval, Model, Variant
from variants.catalog.kernels import DENSE as KERNEL_DENSE
from variants.catalog.kernels import KernelChoice, KernelTable, LayerKernels
from variants.catalog.recipe import DENSE
from variants.catalog.record import read_record
from variants.catalog.sample_request import write_sample
from variants.compression.techniques.int8 import Int8
from variants.model.dataset import Split, TrainingData
from variants.model.loading import describe_interface
from variants.model.state import CompressionState
from variants.runtime import plan
from variants.runtime.linear24 import mask24
from variants.runtime.sparse import network as sparse
from variants.runtime.sparse.dispatch import available_instruction_set

INPUTS, HIDDEN, CLASSES = 64, 96, 8
SAMPLES = {"input": np.random.default_rng(0).standard_normal((40, INPUTS)).astype(np.float32)}
SPLIT = Split(SAMPLES, np.zeros(40, np.int64))
DATA = TrainingData(SPLIT, SPLIT)
SLOWER = Interval(value=0.9, low=0.8, high=0.95)
FASTER = Interval(value=1.2, low=1.1, high=1.3)


def network(hidden: int = HIDDEN) -> nn.Sequential:
    """Return two linear layers, 0 and 2. The catalog's model has this as its `factory`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(INPUTS, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES)
        ).eval()


def state(changed: nn.Module | None = None, **fields: Any) -> CompressionState:
    dense = network()
    compressed = changed or dense
    interface = describe_interface(compressed, SAMPLES, {})
    return CompressionState(compressed, interface, dense=dense, **fields)


def weight(module: nn.Module) -> Tensor:
    parameter = module.get_submodule("0").weight
    assert isinstance(parameter, Tensor)
    return parameter


@cache
def dense() -> dict[str, bytes]:
    return create_artifact(state(), DATA)[1]


def masked() -> dict[str, bytes]:
    changed = network()
    with torch.no_grad():
        weight(changed)[:, ::2] = 0
    return create_artifact(state(changed), DATA)[1]


def padded() -> dict[str, bytes]:
    changed = network()
    with torch.no_grad():
        weight(changed)[-16:] = 0
    return create_artifact(state(changed), DATA)[1]


def int8() -> dict[str, bytes]:
    graph = Int8(samples=16).apply(state(), DATA, quiet()).graph
    assert graph is not None
    return {"model.onnx": graph}


def rewritten(change: Callable[[onnx.GraphProto, onnx.TensorProto], None]) -> dict[str, bytes]:
    """Return dense with the weight of layer 0 stored differently."""
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
    changed = network()
    mask = mask24(weight(changed).detach())
    with torch.no_grad():
        weight(changed).mul_(mask)
    packable = state(changed, masks={"0.weight": mask}, packed=frozenset({"0"}))
    return create_artifact(packable, DATA)[1]


ARTIFACTS: Mapping[str, Callable[[], dict[str, bytes]]] = {
    "masked": masked,
    "padded": padded,
    "odd": lambda: create_artifact(state(network(93)), DATA)[1],
    "int8": int8,
    "half": lambda: rewritten(as_float16),
    "weight-only": lambda: rewritten(as_weight_only_int8),
    "packed": packed,
    "unpacked": packed,
}
KERNELS = {"packed": "rows", "unpacked": KERNEL_DENSE}
"""The kernels of packed variants, in place of those that are faster here."""


def table_of(kernel: str) -> KernelTable:
    """Return a table with one kernel for layer 0."""
    choice = KernelChoice(rows=1, kernel=kernel, seconds=1e-6, dense_s=1e-6)
    layer = LayerKernels(kind="linear-2:4", shape=(HIDDEN, INPUTS), zeros=0.5, choices=(choice,))
    return KernelTable(instruction_set=available_instruction_set(), layers={"0": layer})


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of the variants above, without report cards."""
    folder = tmp_path_factory.mktemp("explained")
    interface = describe_interface(network(), SAMPLES, {})
    model = Model(
        name="two-layers",
        factory=f"{__name__}:network",
        weights_sha256="",
        datasets_sha256="",
        inputs=interface.inputs,
        outputs=interface.outputs,
    )
    artifacts: dict[str, Callable[[], dict[str, bytes]]] = {DENSE: dense, **ARTIFACTS}
    for name, make in artifacts.items():
        files = make()
        runner = "torch" if plan.PLAN in files else "onnx"
        variant = Variant(name=name, recipe=(), runner=runner, files=())
        artifact.save(folder, variant, files)
    write_sample(folder, model, SAMPLES)
    artifact.write_record(folder / CATALOG_FILE, model)
    return folder


@pytest.fixture(scope="module")
def collect_evidence(catalog: Path) -> Callable[[str], Evidence]:
    """Return a function from a variant's name to its evidence, measured except for the speedup."""

    @cache
    def collect(name: str) -> Evidence:
        model = read_record(Model, catalog / CATALOG_FILE)
        variants = {
            which: read_record(Variant, catalog / which / artifact.RECORD)
            for which in (DENSE, name)
        }
        batch = {"input": SAMPLES["input"][:4]}
        with pytest.MonkeyPatch.context() as patch:
            if name in KERNELS:
                patch.setattr(sparse, "measure_kernels", lambda *_, **__: table_of(KERNELS[name]))
            (dense_operators, dense_weights), (operators, weights) = (
                profile_variant(catalog, model, variant, batch, 1) for variant in variants.values()
            )
        return Evidence(
            batch_size=4,
            runner=variants[name].runner,
            dense_runner="onnx",
            speedup=SLOWER,
            speedups={},
            seconds=1e-6,
            dense_seconds=1e-6,  # below the time of the layers, so not bound by overhead
            layers=pair_layers(operators, weights, dense_operators, dense_weights),
            other_seconds={},
            notes=(),
        )

    return collect


def codes(evidence: Evidence) -> set[Code]:
    return {reason.code for reason in reasons(evidence)}


def timed(evidence: Evidence, dense_s: float, variant_s: float) -> Evidence:
    """Return the evidence with these seconds per weight of a layer."""

    def at_speed(layer: LayerExecution | None, seconds: float) -> LayerExecution | None:
        return layer and replace(layer, seconds=seconds * prod(layer.shape))

    layers = tuple(
        LayerTiming(one.name, at_speed(one.dense, dense_s), at_speed(one.variant, variant_s))
        for one in evidence.layers
    )
    return replace(evidence, layers=layers)


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
    collect_evidence: Callable[[str], Evidence], name: str, expected: set[Code]
) -> None:
    assert codes(timed(collect_evidence(name), 1e-9, 1e-9)) == expected


def test_the_evidence_of_a_layer_is_how_it_was_built(
    collect_evidence: Callable[[str], Evidence],
) -> None:
    layers_of = {
        name: {layer.name: layer.variant for layer in collect_evidence(name).layers}
        for name in ARTIFACTS
    }
    assert all(list(layers) == ["0", "2"] for layers in layers_of.values())
    first = {name: layers["0"] for name, layers in layers_of.items()}
    assert all(layer is not None and layer.seconds > 0 for layer in first.values())
    whole = (HIDDEN, INPUTS)
    assert {n: (s.form, s.arithmetic, s.shape) for n, s in first.items() if s is not None} == {
        "masked": ("float32", "float32", whole),
        "padded": ("float32", "float32", whole),
        "odd": ("float32", "float32", (93, INPUTS)),
        "int8": ("int8", "int8", whole),
        "half": ("float16", "float32", whole),
        "weight-only": ("int8", "float32", whole),
        "packed": ("2:4", "float32, sparse", whole),
        "unpacked": ("2:4", "float32", whole),
    }
    assert first["masked"] is not None
    assert first["masked"].zeros == pytest.approx(0.5)
    assert first["padded"] is not None
    assert first["padded"].padding == 16


def test_odd_channels_are_a_reason_if_each_weight_takes_longer(
    collect_evidence: Callable[[str], Evidence],
) -> None:
    (reason,) = reasons(timed(collect_evidence("odd"), 1e-9, 1.5e-9))
    assert reason.code == "odd-channels"
    assert "0 96x64 to 93x64, 1.5x the time per weight" in reason.text


def test_a_packed_layer_in_torch_is_in_the_wrong_runtime_if_it_takes_longer(
    collect_evidence: Callable[[str], Evidence],
) -> None:
    packed, unpacked = collect_evidence("packed"), collect_evidence("unpacked")
    assert codes(timed(unpacked, 1e-9, 2e-9)) == {"wrong-runtime", "storage-only"}
    assert codes(timed(unpacked, 2e-9, 1e-9)) == {"storage-only"}
    assert codes(timed(packed, 1e-9, 2e-9)) == {"wrong-runtime"}
    assert codes(timed(packed, 2e-9, 1e-9)) == {"unexplained"}


def test_a_faster_variant_has_no_reason_to_be_slow(
    collect_evidence: Callable[[str], Evidence],
) -> None:
    assert codes(replace(collect_evidence("masked"), speedup=FASTER)) == {"none"}


def test_the_report_card_shows_on_which_side_of_the_crossover_a_batch_is(
    collect_evidence: Callable[[str], Evidence],
) -> None:
    evidence = timed(collect_evidence("int8"), 1e-9, 1e-9)
    past = replace(evidence, speedups={1: FASTER, 2: FASTER, 4: SLOWER, 8: SLOWER})
    assert codes(past) == {"past-crossover"}
    assert "up to batch 2" in reasons(past)[0].text
    below = replace(evidence, speedups={1: SLOWER, 4: SLOWER, 8: FASTER, 16: FASTER})
    assert codes(below) == {"below-crossover"}
    assert "from batch 8" in reasons(below)[0].text


def test_a_layer_that_stayed_dense_is_a_reason_if_it_takes_much_of_the_time(
    collect_evidence: Callable[[str], Evidence],
) -> None:
    evidence = timed(collect_evidence("int8"), 1e-9, 1e-9)
    noted = replace(
        evidence, notes=("layer 0 stays dense: 62 inputs are no multiple of 4; and so on",)
    )
    layer_s = prod((HIDDEN, INPUTS)) * 1e-9
    much = replace(noted, seconds=2 * layer_s)
    assert reasons(much)[0].code == "unsupported-shape"
    assert "0 (50% of the time): 62 inputs are no multiple of 4" in reasons(much)[0].text
    assert codes(replace(noted, seconds=10 * layer_s)) == {"unexplained"}


def test_conversions_and_overhead_are_reasons_by_their_time(
    collect_evidence: Callable[[str], Evidence],
) -> None:
    evidence = replace(timed(collect_evidence("int8"), 1e-9, 1e-9), dense_seconds=7e-6)
    spent = {"QuantizeLinear": 5e-7, "DequantizeLinear": 4e-7, "Relu": 9e-6}
    assert codes(replace(evidence, other_seconds=spent)) == {"conversion"}
    assert codes(replace(evidence, dense_seconds=1e-4)) == {"overhead-bound"}


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
    seconds = [row.seconds for row in explanation.rows]
    assert seconds == sorted(seconds, reverse=True)


def test_an_explanation_is_rendered_as_text_and_markdown(explanation: Explanation) -> None:
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
def test_only_a_variant_other_than_dense_can_be_explained(catalog: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"no variant '{name}'"):
        explain(catalog, name)

"""A small model with two inputs, one of them of variable length, and two outputs.

    tokens INT64 [n, length], scale FP32 [n, 3]  ─▶  sums FP32 [n, 3], each FP32 [n, length]

Every token has three numbers. `sums` is their sum over the tokens, scaled; `each` is the sum of the
three. The variants differ in the numbers, so an answer shows which variant computed it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from variants.catalog import artifact
from variants.catalog.catalog import (
    AnswerComparison,
    BatchLatency,
    ClassDifference,
    ConfidenceCalibration,
    Hardware,
    Interval,
    LoadTime,
    Model,
    Provenance,
    ReportCard,
    TensorSpec,
    Variant,
)
from variants.catalog.hardware import hardware

Arrays = dict[str, npt.NDArray[Any]]

TOKENS = 50
"""Number of different tokens."""

MODEL = Model(
    name="words",
    factory="tests.serving.gateway.two_inputs:none",
    weights_sha256="",
    datasets_sha256="",
    inputs=(
        TensorSpec(name="tokens", datatype="INT64", shape=(-1, -1)),
        TensorSpec(name="scale", datatype="FP32", shape=(-1, 3)),
    ),
    outputs=(
        TensorSpec(name="sums", datatype="FP32", shape=(-1, 3)),
        TensorSpec(name="each", datatype="FP32", shape=(-1, -1)),
    ),
)

ACCURACY = {"dense": 0.9, "coarse": 0.8}

NUMBERS = {
    "dense": np.random.default_rng(0).random((TOKENS, 3), dtype=np.float32),
    "coarse": np.random.default_rng(0).random((TOKENS, 3), dtype=np.float32).round(1),
}


def inputs(samples: int, length: int, seed: int = 0) -> Arrays:
    """Return `samples` random samples of `length` tokens each."""
    random = np.random.default_rng(seed)
    return {
        "tokens": random.integers(0, TOKENS, (samples, length)),
        "scale": random.random((samples, 3), dtype=np.float32),
    }


def answers(variant: str, arrays: Arrays) -> Arrays:
    """Return the outputs of the variant for these inputs."""
    rows = NUMBERS[variant][arrays["tokens"]]
    return {"sums": rows.sum(axis=1) * arrays["scale"], "each": rows.sum(axis=2)}


def write_catalog(folder: Path) -> Path:
    """Write both variants as ONNX models, with report cards that have what routing needs."""
    folder.mkdir()
    artifact.write_record(folder / "catalog.json", MODEL)
    for name, accuracy in ACCURACY.items():
        variant = Variant(
            name=name,
            recipe=(),
            runner="onnx",
            files=(),
            report_cards=(_card(hardware(1), accuracy),),
        )
        artifact.save(folder, variant, {"model.onnx": _network(name).SerializeToString()})
    return folder


def _network(variant: str) -> onnx.ModelProto:
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["numbers", "tokens"], ["rows"]),
            helper.make_node("ReduceSum", ["rows", "over_tokens"], ["total"], keepdims=0),
            helper.make_node("Mul", ["total", "scale"], ["sums"]),
            helper.make_node("ReduceSum", ["rows", "over_three"], ["each"], keepdims=0),
        ],
        variant,
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT64, ["n", "length"]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, ["n", 3]),
        ],
        [
            helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("each", TensorProto.FLOAT, ["n", "length"]),
        ],
        [
            numpy_helper.from_array(NUMBERS[variant], "numbers"),
            numpy_helper.from_array(np.array([1]), "over_tokens"),
            numpy_helper.from_array(np.array([2]), "over_three"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _card(measured_on: Hardware, accuracy: float) -> ReportCard:
    none = Interval(value=0.0, low=0.0, high=0.0)
    difference = accuracy - ACCURACY["dense"]
    latency_s = 1e-4
    return ReportCard(
        hardware=measured_on,
        libraries={},
        provenance=Provenance(commit=None, load_average=None, seed=0),
        measured_at="2026-01-01T00:00:00Z",
        test_samples=1,
        accuracy=Interval(value=accuracy, low=accuracy, high=accuracy),
        accuracy_difference=Interval(value=difference, low=difference, high=difference),
        agreement=Interval(value=1.0, low=1.0, high=1.0),
        answers=AnswerComparison(
            lost=0,
            gained=0,
            classes=(
                ClassDifference(label=0, samples=1, accuracy=1.0, difference=none, p_value=1.0),
            ),
            divergence=none,
            largest_score_difference=0.0,
            calibration=ConfidenceCalibration(error=0.0, brier=0.0, confidence=1.0),
            most_hit=(),
        ),
        latencies=tuple(
            BatchLatency(
                batch_size=size,
                p50_s=latency_s,
                p95_s=latency_s,
                p99_s=latency_s,
                speedup=Interval(value=1.0, low=1.0, high=1.0),
                dense_p50_s={"onnx": latency_s},
            )
            for size in (1, 8)
        ),
        load=LoadTime(median_s=latency_s, least_s=latency_s, most_s=latency_s, processes=1),
        macs=None,
        parameters=TOKENS * 3,
        nonzeros=TOKENS * 3,
        weight_bytes=TOKENS * 12,
        artifact_bytes=TOKENS * 12,
        served_bytes=TOKENS * 12,
        compressed_bytes=TOKENS * 12,
        resident_bytes=0,
        peak_bytes=None,
    )

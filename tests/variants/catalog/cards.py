"""Builders of report cards with default values."""

from __future__ import annotations

from collections.abc import Mapping

from variants.catalog.catalog import (
    AnswerComparison,
    BatchLatency,
    Catalog,
    ClassDifference,
    ConfidenceCalibration,
    Hardware,
    Interval,
    LoadTime,
    Macs,
    Model,
    Provenance,
    ReportCard,
    Runtime,
    TensorSpec,
    Variant,
)

MODEL = Model(
    name="shirts",
    factory="m:f",
    weights_sha256="",
    datasets_sha256="",
    inputs=(TensorSpec(name="input", datatype="FP32", shape=(-1, 784)),),
    outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, 10)),),
)


def around(value: float, reach: float) -> Interval:
    return Interval(value=value, low=value - reach, high=value + reach)


def latency(
    batch_size: int,
    p50_s: float,
    speedup: Interval | None = None,
    dense_p50_s: Mapping[Runtime, float] | None = None,
) -> BatchLatency:
    speedup = speedup or around(1, 0)
    return BatchLatency(
        batch_size=batch_size,
        p50_s=p50_s,
        p95_s=2 * p50_s,
        p99_s=3 * p50_s,
        speedup=speedup,
        dense_p50_s=dense_p50_s or {"onnx": speedup.value * p50_s},
    )


def class_difference(
    label: int, difference: Interval | None = None, p_value: float = 1.0
) -> ClassDifference:
    return ClassDifference(
        label=label,
        samples=1_000,
        accuracy=0.9,
        difference=difference or around(0, 0),
        p_value=p_value,
    )


def answers(
    *classes: ClassDifference, lost: int = 0, gained: int = 0, most_hit: tuple[int, ...] = ()
) -> AnswerComparison:
    return AnswerComparison(
        lost=lost,
        gained=gained,
        classes=classes or (class_difference(0), class_difference(1)),
        divergence=around(0.0123, 0.0004),
        largest_score_difference=3.25,
        calibration=ConfidenceCalibration(error=0.0456, brier=0.1512, confidence=0.9345),
        most_hit=most_hit,
    )


def card(
    accuracy: float = 0.9,
    *latencies: BatchLatency,
    difference: Interval | None = None,
    key: str = "cpu-t1",
    measured_at: str = "2026-01-01 00:00:00+00:00",
    comparison: AnswerComparison | None = None,
) -> ReportCard:
    return ReportCard(
        hardware=Hardware(key=key, processor="Some CPU 1", flags=("avx2",), threads=1),
        libraries={"python": "3.11", "onnxruntime": "1.31.1"},
        provenance=Provenance(commit="c0ffee", load_average=0.25, seed=7),
        measured_at=measured_at,
        test_samples=10_000,
        accuracy=around(accuracy, 0.006),
        accuracy_difference=difference or around(0, 0),
        agreement=around(0.98, 0.003),
        answers=comparison or answers(),
        latencies=latencies or (latency(1, 0.001), latency(64, 0.016)),
        load=LoadTime(median_s=0.0421, least_s=0.04, most_s=0.0553, processes=3),
        macs=Macs(dense=5_820_416, effective=2_910_208),
        parameters=5_824_522,
        nonzeros=2_924_554,
        weight_bytes=23_298_088,
        artifact_bytes=23_298_790,
        served_bytes=23_298_500,
        compressed_bytes=21_600_000,
        resident_bytes=78_798_848,
        peak_bytes=101_200_000,
    )


def catalog(cards: Mapping[str, tuple[ReportCard, ...]], notes: tuple[str, ...] = ()) -> Catalog:
    return Catalog(
        model=MODEL,
        variants={
            name: Variant(
                name=name, recipe=(), runner="onnx", files=(), notes=notes, report_cards=of_variant
            )
            for name, of_variant in cards.items()
        },
    )

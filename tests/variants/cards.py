"""Report cards made up for tests: only what a test is about has to be said."""

from __future__ import annotations

from collections.abc import Mapping

from variants.catalog import (
    BatchLatency,
    Catalog,
    Hardware,
    Interval,
    Model,
    ReportCard,
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


def latency(batch_size: int, p50_s: float, speedup: Interval | None = None) -> BatchLatency:
    return BatchLatency(
        batch_size=batch_size,
        p50_s=p50_s,
        p95_s=2 * p50_s,
        p99_s=3 * p50_s,
        speedup=speedup or around(1, 0),
    )


def card(
    accuracy: float = 0.9,
    *latencies: BatchLatency,
    difference: Interval | None = None,
    key: str = "cpu-t1",
    measured_at: str = "2026-01-01 00:00:00+00:00",
) -> ReportCard:
    return ReportCard(
        hardware=Hardware(key=key, processor="Some CPU 1", flags=("avx2",), threads=1),
        libraries={"python": "3.11", "onnxruntime": "1.31.1"},
        measured_at=measured_at,
        test_samples=10_000,
        accuracy=around(accuracy, 0.006),
        accuracy_difference=difference or around(0, 0),
        agreement=around(0.98, 0.003),
        latencies=latencies or (latency(1, 0.001), latency(64, 0.016)),
        parameters=5_824_522,
        nonzeros=2_924_554,
        weight_bytes=23_298_088,
        artifact_bytes=23_298_790,
        resident_bytes=78_798_848,
    )


def catalog(cards: Mapping[str, tuple[ReportCard, ...]], notes: tuple[str, ...] = ()) -> Catalog:
    return Catalog(
        model=MODEL,
        variants={
            name: Variant(
                name=name, recipe=(), runner="onnx", files=(), notes=notes, report_cards=own
            )
            for name, own in cards.items()
        },
    )

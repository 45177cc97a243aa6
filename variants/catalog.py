"""What was built and what was measured: the contract between `variants/` and `serving/`.

    catalog/catalog.json            the model: its name, inputs, outputs, and where it came from
    catalog/<variant>/variant.json  one variant: recipe, runner, files, report cards

Plain data. Nothing here may import torch or `serving`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field, ValidationError, field_validator

from variants.recipe import DENSE, Recipe, Reference, VariantName
from variants.record import Record, read_record

Datatype: TypeAlias = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "BF16", "FP32", "FP64", "BYTES",
]  # fmt: skip
"""The Open Inference Protocol's names of the datatypes."""


class TensorSpec(Record):
    """One input or output. The first dimension is the batch; -1 is a variable dimension."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...] = Field(min_length=1)


class File(Record):
    """A file of an artifact, by its name in the variant's folder."""

    name: str
    sha256: str
    size_bytes: int = Field(ge=0)


class Interval(Record):
    """An estimate and its 95 % confidence interval."""

    value: float
    low: float
    high: float


class BatchLatency(Record):
    """How long one call of the runner took with `batch_size` samples in it, in seconds."""

    batch_size: int = Field(ge=1)
    p50_s: float = Field(gt=0)
    p95_s: float = Field(gt=0)
    p99_s: float = Field(gt=0)
    speedup: Interval
    """The dense variant's median over this one's, both measured in turns; above 1 is faster."""

    @property
    def samples_per_s(self) -> float:
        """Throughput of one replica at this batch size."""
        return self.batch_size / self.p50_s


class Hardware(Record):
    """The kind of machine a report card was measured on. Cards of unequal `key` do not compare."""

    key: str
    processor: str
    flags: tuple[str, ...]
    threads: int = Field(ge=1)


class ReportCard(Record):
    """What was measured of one variant on one kind of hardware. Nothing in it is guessed."""

    hardware: Hardware
    libraries: dict[str, str]
    measured_at: str
    test_samples: int = Field(ge=1)
    accuracy: Interval
    accuracy_difference: Interval
    """This variant's accuracy minus dense's, paired on the same test samples."""
    agreement: Interval
    """Share of test samples on which this variant and dense answer the same."""
    latencies: tuple[BatchLatency, ...] = Field(min_length=1)
    parameters: int = Field(ge=0)
    nonzeros: int = Field(ge=0)
    weight_bytes: int = Field(ge=0)
    artifact_bytes: int = Field(ge=0)
    resident_bytes: int = Field(ge=0)
    """Growth of a fresh process's resident memory from loading the variant and running it."""

    @field_validator("latencies")
    @classmethod
    def _batch_sizes_ascend(cls, latencies: tuple[BatchLatency, ...]) -> tuple[BatchLatency, ...]:
        sizes = [latency.batch_size for latency in latencies]
        if sizes != sorted(set(sizes)):
            raise ValueError(f"batch sizes must ascend strictly, got {sizes}")
        return latencies


class Variant(Record):
    """A servable model: how it was made, what runs it, which files it is, how it behaves."""

    name: VariantName
    recipe: Recipe
    runner: Literal["onnx", "torch"]
    files: tuple[File, ...]
    notes: tuple[str, ...] = ()
    """What the techniques decided and a reader should know: layers left dense, and why."""
    report_cards: tuple[ReportCard, ...] = ()

    def report_card(self, hardware_key: str) -> ReportCard | None:
        """Return what was measured on this kind of hardware, or None if nothing was."""
        return next((c for c in self.report_cards if c.hardware.key == hardware_key), None)


class Model(Record):
    """The one model that all variants of a catalog are made from."""

    schema_version: Literal[1] = 1
    name: VariantName
    factory: Reference
    weights_sha256: str
    datasets_sha256: str
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)


class Catalog(Record):
    """A folder of variants with their report cards; always holds `dense`."""

    model: Model
    variants: Mapping[VariantName, Variant]

    @field_validator("variants")
    @classmethod
    def _dense_is_there(cls, variants: Mapping[str, Variant]) -> Mapping[str, Variant]:
        if DENSE not in variants:
            raise ValueError("a catalog must hold the variant `dense`")
        return variants

    @classmethod
    def load(cls, folder: Path) -> Catalog:
        """Read a catalog; the variants come dense first, then by name.

        Raises `ValueError` that names the file which is missing or wrong.
        """
        if not (folder / "catalog.json").is_file():
            raise ValueError(f"{folder} is no catalog: it has no catalog.json; run `make build`")
        model = read_record(Model, folder / "catalog.json")
        variants = [read_record(Variant, path) for path in folder.glob("*/variant.json")]
        variants.sort(key=lambda variant: (variant.name != DENSE, variant.name))
        try:
            return cls(model=model, variants={variant.name: variant for variant in variants})
        except ValidationError as error:
            raise ValueError(f"{folder}: {error.errors()[0]['msg']}") from None

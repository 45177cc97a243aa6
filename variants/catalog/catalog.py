"""What was built and what was measured: the contract between `variants/` and `serving/`.

    catalog/catalog.json            the model: its name, inputs, outputs, and where it came from
    catalog/<variant>/variant.json  one variant: recipe, runner, files, report cards

Plain data. Nothing here may import torch or `serving`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from variants.catalog.recipe import DENSE, Recipe, Reference, VariantName
from variants.catalog.record import Record, read_record

Datatype: TypeAlias = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "BF16", "FP32", "FP64", "BYTES",
]  # fmt: skip
"""The Open Inference Protocol's names of the datatypes."""

Runtime: TypeAlias = Literal["onnx", "torch"]
"""What runs a variant."""

SCHEMA: Final = 2
"""Rises when a catalog of before can no longer be read."""


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
    """Dense's median over this one's, both measured in turns; above 1 is faster. Dense is taken in
    the runtime in which it is faster at this batch size."""
    dense_p50_s: Mapping[Runtime, float] = Field(min_length=1)
    """Dense's median in each runtime that was tried, in the same turns."""

    @property
    def reference(self) -> Runtime:
        """The runtime of the dense model that the speedup is over."""
        return min(self.dense_p50_s, key=lambda runtime: self.dense_p50_s[runtime])

    @property
    def samples_per_s(self) -> float:
        """Throughput of one replica at this batch size."""
        return self.batch_size / self.p50_s


class ClassDifference(Record):
    """How a variant does on the test samples of one class, paired with dense."""

    label: int
    samples: int = Field(ge=1)
    accuracy: float = Field(ge=0, le=1)
    difference: Interval
    """To dense's; the intervals of all classes hold together with 95 % (Bonferroni)."""
    p_value: float = Field(ge=0, le=1)
    """Exact McNemar test of the flips in this class, adjusted for all classes (Holm)."""


class ConfidenceCalibration(Record):
    """How far the probabilities, the softmax of the scores, can be believed."""

    error: float = Field(ge=0, le=1)
    """Expected calibration error: `variants.measurement.quality.calibration_error`."""
    brier: float = Field(ge=0, le=2)
    """Squared distance of the probabilities to the truth, added up over the classes."""
    confidence: float = Field(ge=0, le=1)
    """Mean of the largest probability."""


class AnswerComparison(Record):
    """How a variant's answers to the test samples differ from dense's to the same."""

    lost: int = Field(ge=0)
    """Samples that dense has right and this variant wrong."""
    gained: int = Field(ge=0)
    """Samples that dense has wrong and this variant right."""
    classes: tuple[ClassDifference, ...] = Field(min_length=1)
    divergence: Interval
    """Mean of KL(dense || variant) of the probabilities, in nats."""
    largest_score_difference: float = Field(ge=0)
    calibration: ConfidenceCalibration
    most_hit: tuple[int, ...]
    """Numbers of those lost test samples that the variant is surest of, the surest first."""

    @property
    def worst_first(self) -> tuple[ClassDifference, ...]:
        """The classes, first that which lost most; of equals the one less likely by chance."""
        return tuple(
            sorted(self.classes, key=lambda one: (one.difference.value, one.p_value, one.label))
        )


class LoadTime(Record):
    """Seconds from loading to the first answer, in fresh processes that did nothing else."""

    median_s: float = Field(gt=0)
    least_s: float = Field(gt=0)
    most_s: float = Field(gt=0)
    processes: int = Field(ge=1)


class Macs(Record):
    """Multiplications with addition that one sample takes, in matrix products and convolutions."""

    dense: int = Field(ge=0)
    """Zeros multiplied like any other number."""
    effective: int = Field(ge=0)
    """Without those by a weight that is zero."""


class Provenance(Record):
    """What a measurement depends on, beside the hardware and the libraries."""

    commit: str | None
    """Of the git repository around the working directory, `-dirty` if files were changed since;
    None outside of one."""
    load_average: float | None
    """Processes that wanted to run in the minute before; None where the system does not tell."""
    seed: int
    """Of the order of turns and of every resampling."""


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
    provenance: Provenance
    measured_at: str
    test_samples: int = Field(ge=1)
    accuracy: Interval
    accuracy_difference: Interval
    """This variant's accuracy minus dense's, paired on the same test samples."""
    agreement: Interval
    """Share of test samples on which this variant and dense answer the same."""
    answers: AnswerComparison
    latencies: tuple[BatchLatency, ...] = Field(min_length=1)
    load: LoadTime
    macs: Macs | None
    """For the first test sample; None where the graph multiplies in a way that is not counted."""
    parameters: int = Field(ge=0)
    nonzeros: int = Field(ge=0)
    weight_bytes: int = Field(ge=0)
    artifact_bytes: int = Field(ge=0)
    """All files of the variant. Dense's hold its weights twice: as they are run, and as given."""
    served_bytes: int = Field(ge=0)
    """The files that its runner reads."""
    compressed_bytes: int = Field(ge=0)
    """The same, each compressed by zlib at level 6: what zeros and repetition are worth."""
    resident_bytes: int = Field(ge=0)
    """Growth of a fresh process's resident memory from loading the variant and running it."""
    peak_bytes: int | None = Field(ge=0)
    """The most that it grew by meanwhile; None where the system does not tell."""

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
    runner: Runtime
    files: tuple[File, ...]
    notes: tuple[str, ...] = ()
    """What the techniques decided and a reader should know: layers left dense, and why."""
    report_cards: tuple[ReportCard, ...] = ()

    def report_card(self, hardware_key: str) -> ReportCard | None:
        """Return what was measured on this kind of hardware, or None if nothing was."""
        return next((c for c in self.report_cards if c.hardware.key == hardware_key), None)


class Model(Record):
    """The one model that all variants of a catalog are made from."""

    schema_version: int = SCHEMA
    name: VariantName
    factory: Reference
    weights_sha256: str
    datasets_sha256: str
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    axes: Mapping[str, Mapping[int, str]] = Field(default_factory=dict)
    """Names of inputs' dimensions of variable size: one name is one size in any one request."""

    @field_validator("schema_version")
    @classmethod
    def _can_be_read(cls, version: int) -> int:
        if version != SCHEMA:
            raise PydanticCustomError(
                "schema",
                "the catalog is of schema {version}, and this program reads {known}: "
                "build it anew with `paretoserve build`",
                {"version": version, "known": SCHEMA},
            )
        return version


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

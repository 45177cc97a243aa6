"""The catalog: the models, variants and report cards that `variants/` passes to `serving/`.

    catalog/catalog.json            the model: name, inputs, outputs and origin
    catalog/<variant>/variant.json  one variant: recipe, runner, files, report cards

Plain data. This module may not import torch or `serving`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from variants.catalog.coverage import StepCoverage
from variants.catalog.device import Device
from variants.catalog.kernels import KernelTable
from variants.catalog.names import RECORD, FileName, file_in, require_inside, require_own_names
from variants.catalog.recipe import DENSE, Recipe, Reference, VariantName
from variants.catalog.record import Record, read_record
from variants.catalog.words import first_problem

Datatype: TypeAlias = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "BF16", "FP32", "FP64", "BYTES",
]  # fmt: skip
"""Datatype names of the Open Inference Protocol."""

Runtime: TypeAlias = Literal["onnx", "torch"]
"""The library that executes a variant."""

SCHEMA: Final = 2
"""Version of the file format. Incremented when older catalogs can no longer be read."""


class TensorSpec(Record):
    """One input or output. The first dimension is the batch; -1 is a variable dimension."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...] = Field(min_length=1)


class File(Record):
    """A file of an artifact, directly in the folder of the variant."""

    name: FileName
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)


class Interval(Record):
    """An estimate and its 95 % confidence interval."""

    value: float
    low: float
    high: float


class BatchLatency(Record):
    """Seconds that one call of the runner takes for a batch of `batch_size` samples."""

    batch_size: int = Field(ge=1)
    p50_s: float = Field(gt=0)
    p95_s: float = Field(gt=0)
    p99_s: float = Field(gt=0)
    speedup: Interval
    """Median of dense divided by the median of this variant, measured in alternation; above 1 means
    faster. Dense counts in the runtime in which it is faster at this batch size."""
    dense_p50_s: Mapping[Runtime, float] = Field(min_length=1)
    """Median of dense in each measured runtime, from the same rounds."""

    @property
    def reference(self) -> Runtime:
        """The runtime of dense that the speedup refers to."""
        return min(self.dense_p50_s, key=lambda runtime: self.dense_p50_s[runtime])

    @property
    def samples_per_s(self) -> float:
        """Throughput of one replica at this batch size."""
        return self.batch_size / self.p50_s


class ClassDifference(Record):
    """Accuracy of a variant on the test samples of one class, paired with dense."""

    label: int
    samples: int = Field(ge=1)
    accuracy: float = Field(ge=0, le=1)
    difference: Interval
    """Accuracy minus that of dense. All intervals hold jointly with 95 % (Bonferroni)."""
    p_value: float = Field(ge=0, le=1)
    """Exact McNemar test of the changed answers in this class, adjusted for all classes (Holm)."""


class ConfidenceCalibration(Record):
    """Calibration of the class probabilities, which are the softmax of the scores."""

    error: float = Field(ge=0, le=1)
    """Expected calibration error: `variants.measurement.quality.calibration_error`."""
    brier: float = Field(ge=0, le=2)
    """Brier score: squared distance of the probabilities to the labels, summed over the classes."""
    confidence: float = Field(ge=0, le=1)
    """Mean over the samples of the largest probability."""


class AnswerComparison(Record):
    """Differences between the answers of a variant and of dense on the test samples."""

    lost: int = Field(ge=0)
    """Number of samples that dense classifies correctly and this variant does not."""
    gained: int = Field(ge=0)
    """Number of samples that this variant classifies correctly and dense does not."""
    classes: tuple[ClassDifference, ...] = Field(min_length=1)
    divergence: Interval
    """Mean over the samples of KL(dense || variant) of the probabilities, in nats."""
    largest_score_difference: float = Field(ge=0)
    calibration: ConfidenceCalibration
    most_hit: tuple[int, ...]
    """Indices of lost test samples in which the variant is most confident, in descending order."""

    @property
    def worst_first(self) -> tuple[ClassDifference, ...]:
        """The classes by ascending accuracy difference, then by p-value."""
        return tuple(
            sorted(self.classes, key=lambda each: (each.difference.value, each.p_value, each.label))
        )


class LoadTime(Record):
    """Seconds from loading a variant to its first answer, each measured in a fresh process."""

    median_s: float = Field(gt=0)
    least_s: float = Field(gt=0)
    most_s: float = Field(gt=0)
    processes: int = Field(ge=1)


class Macs(Record):
    """Multiply-accumulate operations per sample in matrix products and convolutions."""

    dense: int = Field(ge=0)
    """All operations, including those with zero weights."""
    effective: int = Field(ge=0)
    """Operations without those whose weight is zero."""


class Timing(Record):
    """How long the latencies of a card were measured: short measurements are less certain."""

    seconds_per_point: float = Field(ge=0)
    """Time for each variant at each batch size."""
    is_quick: bool = False
    """Whether it was shortened with `--quick` or for a busy machine."""

    def describe(self) -> str:
        """Return the timing in words."""
        return f"{'quick: ' if self.is_quick else ''}{self.seconds_per_point:g} s per point"


class Provenance(Record):
    """Circumstances of a measurement other than the hardware and the libraries."""

    commit: str | None
    """Git commit of the working directory, with `-dirty` if tracked files differ from it; None
    outside a repository."""
    load_average: float | None
    """Load average of the minute before the measurement; None if the system does not report it."""
    seed: int
    """Seed of the order of the rounds and of every bootstrap."""


class Hardware(Record):
    """The machine a report card was measured on. Cards are comparable only if `key` is equal."""

    key: str
    processor: str
    flags: tuple[str, ...]
    threads: int = Field(ge=1)
    device: Device = "cpu"
    gpu: str | None = None
    """Name of the GPU; None on the device `cpu`."""
    cpus: int | None = Field(default=None, ge=1)
    """CPUs that the measuring process could use; None in cards from before this was recorded."""


class ReportCard(Record):
    """Measurements of one variant on one kind of hardware."""

    hardware: Hardware
    libraries: dict[str, str]
    provenance: Provenance
    measured_at: str
    test_samples: int = Field(ge=1)
    accuracy: Interval
    accuracy_difference: Interval
    """Accuracy minus that of dense, paired by test sample."""
    agreement: Interval
    """Share of test samples for which this variant and dense predict the same class."""
    answers: AnswerComparison
    latencies: tuple[BatchLatency, ...] = Field(min_length=1)
    load: LoadTime
    macs: Macs | None
    """Operations for the first test sample; None if the graph contains operators that are not
    counted."""
    parameters: int = Field(ge=0)
    nonzeros: int = Field(ge=0)
    weight_bytes: int = Field(ge=0)
    artifact_bytes: int = Field(ge=0)
    """Size of all files of the variant. Dense has its weights twice: in the graph and as given."""
    served_bytes: int = Field(ge=0)
    """Size of the files that the runner reads."""
    compressed_bytes: int = Field(ge=0)
    """Size of the same files, each compressed by zlib at level 6: shows zeros and repetition."""
    resident_bytes: int = Field(ge=0)
    """Growth of the resident memory of a fresh process that loads and runs the variant."""
    peak_bytes: int | None = Field(ge=0)
    """Largest growth in that process; None if the system does not report it."""
    kernels: KernelTable | None = None
    """The kernels of the sparse layers; None for a variant that does not run in torch."""
    provider: str | None = None
    """What executed the variant, such as `CUDAExecutionProvider` (`variants.catalog.device`). None
    on cards from before this was recorded, which are all of the CPU."""
    elsewhere: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """On a GPU, the operators of the graph that another provider ran, by the name of it."""
    timing: Timing | None = None
    """How long latencies were measured; None on cards from before this was recorded."""
    gpu_bytes: int | None = Field(default=None, ge=0)
    """Growth of the memory in use on the GPU, with the CUDA context; None on the device `cpu`."""

    @field_validator("latencies")
    @classmethod
    def _require_ascending_batch_sizes(
        cls, latencies: tuple[BatchLatency, ...]
    ) -> tuple[BatchLatency, ...]:
        sizes = [latency.batch_size for latency in latencies]
        if sizes != sorted(set(sizes)):
            raise ValueError(f"batch sizes must ascend strictly, got {sizes}")
        return latencies


class Variant(Record):
    """A servable model: its recipe, runner, files and report cards."""

    name: VariantName
    recipe: Recipe
    runner: Runtime
    files: tuple[File, ...]
    notes: tuple[str, ...] = ()
    """Remarks of the techniques for readers, such as layers left dense and the reason."""
    coverage: tuple[StepCoverage, ...] = ()
    """What each step of the recipe changed; none in variants from before this was recorded."""
    report_cards: tuple[ReportCard, ...] = ()

    @field_validator("files")
    @classmethod
    def _require_distinct_names(cls, files: tuple[File, ...]) -> tuple[File, ...]:
        seen: dict[str, str] = {}
        for file in files:
            if (key := file.name.lower()) in seen:
                raise PydanticCustomError(
                    "file_name",
                    "{first} and {second} are one name where case does not count: list each file "
                    "once",
                    {"first": seen[key], "second": file.name},
                )
            seen[key] = file.name
        return files

    def report_card(self, hardware_key: str) -> ReportCard | None:
        """Return the report card for this hardware key, or None."""
        return next((c for c in self.report_cards if c.hardware.key == hardware_key), None)


class Model(Record):
    """The model that all variants of a catalog derive from."""

    schema_version: int = SCHEMA
    name: VariantName
    factory: Reference
    weights_sha256: str
    datasets_sha256: str
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    axes: Mapping[str, Mapping[int, str]] = Field(default_factory=dict)
    """Names of variable input dimensions. Dimensions of one name have one size within a request."""

    @classmethod
    def load(cls, folder: Path) -> Model:
        """Read the model of a catalog; raise `ValueError` if it is missing or invalid."""
        if not (folder / "catalog.json").is_file():
            raise ValueError(f"{folder} is not a catalog: it has no catalog.json; run `make build`")
        file_in(folder, "catalog.json")
        return read_record(cls, folder / "catalog.json")

    @field_validator("schema_version")
    @classmethod
    def _require_known_schema(cls, version: int) -> int:
        if version != SCHEMA:
            raise PydanticCustomError(
                "schema",
                "the catalog has schema {version}, but this version reads schema {known}: "
                "rebuild it with `paretoserve build`",
                {"version": version, "known": SCHEMA},
            )
        return version


class Catalog(Record):
    """A folder of variants with their report cards. Always contains `dense`."""

    model: Model
    variants: Mapping[VariantName, Variant]

    @field_validator("variants")
    @classmethod
    def _require_dense(cls, variants: Mapping[str, Variant]) -> Mapping[str, Variant]:
        if DENSE not in variants:
            raise ValueError("a catalog must contain the variant `dense`")
        return variants

    @classmethod
    def load(cls, folder: Path) -> Catalog:
        """Read a catalog. The variants are ordered by name, with dense first.

        Raises `ValueError` with the name of the missing or invalid file.
        """
        model = Model.load(folder)
        found = {path: read_variant(folder, path) for path in sorted(folder.glob(f"*/{RECORD}"))}
        require_own_names({path: variant.name for path, variant in found.items()})
        variants = sorted(found.values(), key=lambda each: (each.name != DENSE, each.name))
        try:
            return cls(model=model, variants={variant.name: variant for variant in variants})
        except ValidationError as error:
            raise ValueError(f"{folder}: {first_problem(error, 'the catalog')}") from None


def read_variant(catalog: Path, record: Path) -> Variant:
    """Read the `variant.json` of a folder in a catalog.

    Raises `ValueError` with the file if it is missing or invalid, or lies outside of the catalog.
    """
    require_inside(catalog, record.parent)
    file_in(record.parent, record.name)
    return read_record(Variant, record)

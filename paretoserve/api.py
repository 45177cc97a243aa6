"""The Python API: build a catalog of variants, read its report cards, run a variant.

    recipes.yaml ─▶ build ─▶ Catalog ─▶ Variant ─▶ VariantReport
                             Catalog ─▶ load ─▶ Model: arrays in, arrays out

Functions import what they need when they are called, so that importing this module is cheap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import ArrayLike, NDArray
    from rich.console import RenderableType

    from paretoserve.report_card import VariantReport
    from variants.catalog.catalog import Catalog as CatalogRecord
    from variants.catalog.catalog import Model as ModelRecord
    from variants.catalog.catalog import TensorSpec
    from variants.catalog.catalog import Variant as VariantRecord
    from variants.catalog.coverage import StepCoverage
    from variants.catalog.device import Device
    from variants.catalog.recipe import Recipe
    from variants.runtime.runner import Runner

_MAX_SAMPLES = 2**31 - 1
_WIDTH = 100
"""Width of a catalog's repr, in columns."""


class BuildFailed(ValueError):
    """Some recipes could not be built; the variants of all others are in the catalog."""

    def __init__(self, message: str, failures: Mapping[str, Exception], catalog: Catalog) -> None:
        super().__init__(message)
        self.failures = failures
        """The errors by recipe."""
        self.catalog = catalog
        """What was built."""


def build(
    project: str | PathLike[str],
    catalog: str | PathLike[str] = "catalog",
    *,
    only: Sequence[str] = (),
    threads: int = 1,
    device: Device = "cpu",
    seconds_per_point: float | None = None,
    batch_sizes: Sequence[int] | None = None,
    quick: bool = False,
    fail_fast: bool = False,
    progress: bool = True,
) -> Catalog:
    """Build and measure the variants of a project file, and write the report into the catalog.

    `only` limits the build to these variants, as `paretoserve build --only` does. `threads` is the
    number of compute threads of a serving replica, and `device` is `cpu`, `cuda` or `tensorrt`;
    report cards hold for these. `seconds_per_point` is the time to spend on the latency of each
    variant at each of the `batch_sizes`, by default 1.3 s and 1, 2, 4 to 64. `quick` measures three
    batch sizes for a short time, which the report cards record. `progress` shows bars on stderr.

    Raises ValueError, before anything long starts, if the project cannot be built. A recipe that
    fails is left out, and BuildFailed is raised at the end with the catalog of all others; with
    `fail_fast`, the first failure is raised at once, and the catalog stays as it was.
    """
    from paretoserve.terminal import progress_bars
    from variants.build.build import build
    from variants.build.failure import RecipesFailed
    from variants.measurement.report_card import chosen_measure
    from variants.report.files import write_report

    folder = Path(catalog)
    measure = chosen_measure(
        quick=quick, batch_sizes=batch_sizes, seconds_per_point=seconds_per_point
    )
    try:
        with progress_bars(is_shown=progress) as bars:
            record = build(
                Path(project),
                folder,
                progress=bars,
                only=only,
                threads=threads,
                device=device,
                measure=measure,
                fail_fast=fail_fast,
            )
    except RecipesFailed as error:
        write_report(error.catalog, folder)
        raise BuildFailed(str(error), error.failures, Catalog(folder, error.catalog)) from None
    write_report(record, folder)
    return Catalog(folder, record)


def open_catalog(folder: str | PathLike[str]) -> Catalog:
    """Read the catalog in a folder; raises ValueError if there is none or a file in it is wrong."""
    from variants.catalog.catalog import Catalog as CatalogRecord

    return Catalog(Path(folder), CatalogRecord.load(Path(folder)))


def load(
    catalog: Catalog | str | PathLike[str],
    variant: str,
    *,
    threads: int = 1,
    device: Device = "cpu",
) -> Model:
    """Load a variant of a catalog, or of the catalog in a folder, to run it in this process.

    `threads` is the number of compute threads. For a variant that runs in torch it applies to the
    whole process. `device` is `cpu`, `cuda` or `tensorrt`. Raises KeyError if there is no such
    variant, and ValueError if a file of it is missing or damaged, or the device cannot be used.
    """
    from variants.runtime.runner import load_runner

    opened = catalog if isinstance(catalog, Catalog) else open_catalog(catalog)
    name = opened[variant].name
    model, record = opened.record.model, opened.record.variants[name]
    runner = load_runner(opened.folder, model, record, threads=threads, device=device)
    return Model(name, model, runner)


class Catalog(Mapping[str, "Variant"]):
    """The variants of one model with their report cards, by name; `dense` comes first.

    Its repr is the overview table.
    """

    def __init__(self, folder: Path, record: CatalogRecord) -> None:
        self.folder = folder
        self.record = record
        """The contents of the catalog's files, as `variants.catalog` reads them."""

    def __getitem__(self, name: str) -> Variant:
        """Return a variant. Raises KeyError, with the known names, if there is no such variant."""
        if name not in self.record.variants:
            raise KeyError(f"no variant {name!r}; there are {', '.join(self)}")
        return Variant(self.record.variants[name], self.hardware)

    def __iter__(self) -> Iterator[str]:
        return iter(self.record.variants)

    def __len__(self) -> int:
        return len(self.record.variants)

    @property
    def hardware(self) -> str | None:
        """The kind of hardware of the newest report card; None if nothing has been measured."""
        from variants.catalog.comparison import hardware_keys

        return next(iter(hardware_keys(self.record)), None)

    def frontier(self, batch_size: int = 1) -> tuple[str, ...]:
        """Return the variants on the Pareto frontier of accuracy and median latency.

        Raises ValueError if no variant was measured at this batch size.
        """
        from variants.catalog.comparison import batch_sizes, cards_on, frontier_at

        cards = cards_on(self.record, self.hardware) if self.hardware else {}
        if batch_size not in (measured := batch_sizes(cards)):
            sizes = ", ".join(map(str, measured)) or "none"
            raise ValueError(f"nothing was measured at batch size {batch_size}; measured: {sizes}")
        best = frontier_at(cards, batch_size)
        return tuple(name for name in self if name in best)

    def __rich__(self) -> RenderableType:
        from variants.report.tables import render_overview

        return render_overview(self.record)

    def __repr__(self) -> str:
        from rich.console import Console

        console = Console(width=_WIDTH, color_system=None)
        with console.capture() as capture:
            console.print(self)
        lines = (line.rstrip() for line in capture.get().splitlines())
        table = "\n".join(line for line in lines if line)
        return table or f"Catalog of {', '.join(self)}: not measured yet"


class Variant:
    """One variant of a catalog: its recipe and its report cards."""

    def __init__(self, record: VariantRecord, hardware: str | None) -> None:
        self.record = record
        """The contents of the variant's `variant.json`."""
        self._hardware = hardware

    @property
    def name(self) -> str:
        """The variant's name in the catalog."""
        return self.record.name

    @property
    def recipe(self) -> Recipe:
        """The compression steps, in order; none for `dense`."""
        return self.record.recipe

    @property
    def notes(self) -> tuple[str, ...]:
        """Decisions of the techniques, such as layers that stayed dense, and why."""
        return self.record.notes

    @property
    def coverage(self) -> tuple[StepCoverage, ...]:
        """What each step changed, and which layers it left alone, and why."""
        return self.record.coverage

    @property
    def reports(self) -> dict[str, VariantReport]:
        """The report cards by kind of hardware."""
        from paretoserve.report_card import VariantReport

        return {
            card.hardware.key: VariantReport(variant=self.name, **dict(card))
            for card in self.record.report_cards
        }

    @property
    def report(self) -> VariantReport:
        """The report card on the catalog's newest hardware, so that variants compare.

        Raises ValueError if the variant was not measured there.
        """
        reports = self.reports
        if self._hardware is None or self._hardware not in reports:
            measured = ", ".join(reports) or "no hardware"
            raise ValueError(
                f"variant {self.name!r} has a report card for {measured}, not for "
                f"{self._hardware or 'any'}; run `paretoserve measure`"
            )
        return reports[self._hardware]

    def __repr__(self) -> str:
        return f"Variant({self.name!r}, recipe={[step.technique for step in self.recipe]})"


class Model:
    """A loaded variant. Calling it computes one batch."""

    def __init__(self, variant: str, record: ModelRecord, run: Runner) -> None:
        from serving.dataplane.validation import ModelTensors

        self.variant = variant
        self.inputs: tuple[TensorSpec, ...] = record.inputs
        """Name, datatype and shape of each input; dimension 0 is the batch, -1 is any size."""
        self.outputs: tuple[TensorSpec, ...] = record.outputs
        self._tensors = ModelTensors(record, _MAX_SAMPLES)
        self._run = run

    @overload
    def __call__(self, inputs: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]: ...

    @overload
    def __call__(self, inputs: ArrayLike) -> NDArray[Any]: ...

    def __call__(
        self, inputs: Mapping[str, ArrayLike] | ArrayLike
    ) -> dict[str, NDArray[Any]] | NDArray[Any]:
        """Compute one batch: mapping to mapping, or array to array if there is one of each.

        Values are converted to the input's datatype if that changes nothing but the rounding of
        floats. Raises ValueError if the model does not take these inputs.
        """
        if isinstance(inputs, Mapping):
            return self._compute(inputs)
        if len(self.inputs) > 1 or len(self.outputs) > 1:
            raise ValueError(
                f"the model has the inputs {', '.join(spec.name for spec in self.inputs)} and the "
                f"outputs {', '.join(spec.name for spec in self.outputs)}: "
                "pass a mapping of arrays by input name"
            )
        return self._compute({self.inputs[0].name: inputs})[self.outputs[0].name]

    def _compute(self, inputs: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
        import numpy as np

        from serving.errors import InvalidRequest

        specs = {spec.name: spec for spec in self.inputs}
        arrays = {
            name: _converted(value, specs[name]) if name in specs else np.asarray(value)
            for name, value in inputs.items()
        }
        try:
            self._tensors.check(arrays, ())
        except InvalidRequest as error:
            raise ValueError(str(error)) from None
        return self._run(arrays)

    def __repr__(self) -> str:
        return f"Model({self.variant!r}, {_described(self.inputs)} -> {_described(self.outputs)})"


def _converted(value: ArrayLike, spec: TensorSpec) -> NDArray[Any]:
    """Return the value as an array of the input's datatype.

    Raises ValueError if an element would change by more than the rounding of floats.
    """
    import numpy as np

    from variants.catalog.datatype import NUMPY

    array = np.asarray(value)
    if spec.datatype == "BYTES":
        return (np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array).astype(object)
    dtype = NUMPY[spec.datatype]
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "biufV":
        raise ValueError(f"input {spec.name!r} must be {spec.datatype}, got {array.dtype}")
    with np.errstate(invalid="ignore", over="ignore"):
        converted = array.astype(dtype)
    if dtype.kind in "biu" and not np.array_equal(converted, array):
        raise ValueError(
            f"input {spec.name!r} must be {spec.datatype}, got {array.dtype} with values that "
            f"{spec.datatype} cannot hold"
        )
    return converted


def _described(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name}: {spec.datatype} {list(spec.shape)}" for spec in specs)

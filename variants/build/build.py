"""Builds a catalog from a project file: compresses, saves and measures its variants.

    Project ─▶ for each recipe: CompressionState ─▶ techniques ─▶ artifact
            ─▶ measure, in turns with dense ─▶ report cards ─▶ catalog ─▶ catalog.json, last

A recipe that fails does not end the build: what succeeded is kept, and `RecipesFailed` names the
rest. An existing catalog does not change until all new variants are measured. Then each variant is
renamed into place with its report card. A build of all variants removes `catalog.json` until it is
complete; a folder without this file is not a catalog.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

import safetensors.torch
from rich.progress import Progress, TaskID

from variants.build.check import load_checked_project
from variants.build.coverage import cover, cover_packed
from variants.build.failure import RecipesFailed, describe_failure
from variants.build.passes import run_splits
from variants.build.runtime_choice import choose_runtime, observe_rows
from variants.build.step_check import apply_checked, far_below_dense
from variants.catalog import artifact
from variants.catalog.catalog import Catalog, Model, ReportCard, Runtime, Variant
from variants.catalog.coverage import StepCoverage
from variants.catalog.device import Device
from variants.catalog.hardware import hardware
from variants.catalog.recipe import DENSE, Project, Recipe
from variants.catalog.record import read_record
from variants.catalog.sample_request import write_sample
from variants.compression.export import export_state
from variants.compression.techniques.technique import Technique
from variants.measurement.progress import PhaseCallback
from variants.measurement.report_card import measure
from variants.model.dataset import Datasets, Split, TrainingData
from variants.model.state import CompressionState
from variants.runtime import plan
from variants.runtime.onnx import FILE as MODEL_FILE

CATALOG_FILE = "catalog.json"
_SAMPLES_S: Final = 5.0
"""Time after which a build runs no further samples through dense before it begins."""


class Measure(Protocol):
    """Makes report cards: `variants.measurement.report_card.measure`, or a shorter measurement."""

    def __call__(
        self,
        catalog: Path,
        model: Model,
        variants: Mapping[str, Variant],
        split: Split,
        *,
        threads: int,
        device: Device = "cpu",
        on_progress: PhaseCallback,
        only: Collection[str] | None = None,
    ) -> dict[str, ReportCard]:
        """Return the report cards of the variants, or of those in `only`, by name.

        `dense` must be one of the variants.
        """
        ...


def build(
    project_file: Path,
    catalog: Path,
    *,
    progress: Progress,
    only: Sequence[str] = (),
    threads: int = 1,
    device: Device = "cpu",
    measure: Measure = measure,
    fail_fast: bool = False,
) -> Catalog:
    """Build and measure the variants of a project into the folder `catalog`; return the catalog.

    Without `only`, all variants are built and replace the contents of the catalog. With `only`, the
    named variants (and dense, if the catalog has none) are added to it or replaced. `threads` is
    the number of compute threads of a replica; training uses all threads of the machine. Variants
    are measured on `device`, and techniques run on the CPU. A variant is replaced as a whole, in
    two renames: a reader sees the old one, none for a moment, and then the new one.

    Raises `ValueError` if the project has errors or the device is a GPU and there is none; this is
    checked before any variant is built. A recipe that fails, for example because it cannot keep its
    `max_drop`, is left out; all others are built, measured and kept, and `RecipesFailed` is raised
    at the end, with the catalog and the failures. An older variant of a recipe that failed is kept
    with `only`, and deleted in a build of all variants. If `dense` fails, and for every failure
    with `fail_fast`, the error is raised at once and the catalog stays as it was.
    """
    hardware(threads, device)
    checked = load_checked_project(project_file)
    project, network, datasets = checked.project, checked.network, checked.datasets
    interface, recipes = checked.interface, checked.recipes
    _require_known(project_file, project, only)
    run_splits(network, datasets, seconds=_SAMPLES_S)
    model = checked.model()

    catalog.mkdir(parents=True, exist_ok=True)
    artifact.recover(catalog)
    is_addition = bool(only) and (catalog / CATALOG_FILE).exists()
    if is_addition:
        require_same_model(Catalog.load(catalog), model, catalog)
        recipes = {name: steps for name, steps in recipes.items() if name in only}
    else:
        recipes = {n: steps for n, steps in recipes.items() if not only or n in (DENSE, *only)}

    dense = CompressionState(network, interface, dense=network)
    with artifact.draft_folder(catalog, prefix="build-") as drafts:
        data = datasets.training_data
        built: dict[str, Variant] = {}
        failures: dict[str, Exception] = {}
        for name, techniques in recipes.items():
            steps = " ─▶ ".join(technique.kind for technique in techniques) or "as trained"
            progress.console.print(f"{name}: {steps}", highlight=False, markup=False)
            before = {task.id for task in progress.tasks}
            try:
                state = dense
                for technique in techniques:
                    state = apply_technique(name, technique, state, data, progress)
                built[name] = make_variant(
                    drafts,
                    name,
                    project.recipes[name],
                    state,
                    data,
                    threads=threads,
                    device=device,
                )
            except Exception as error:  # a technique, torch or onnxruntime may raise any
                if fail_fast or name == DENSE:
                    raise
                failures[name] = error
                for task in [task.id for task in progress.tasks if task.id not in before]:
                    progress.remove_task(task)
                print_line(progress, f"  failed: {describe_failure(name, error)}")
            else:
                for note in state.notes:
                    if note.startswith("WARNING"):
                        print_line(progress, f"{name}: {note}")
                for step in built[name].coverage:
                    print_line(progress, f"  {step.describe()}")
        if DENSE not in built:
            built[DENSE] = read_record(Variant, catalog / DENSE / artifact.RECORD)
            (drafts / DENSE).symlink_to((catalog / DENSE).absolute())

        for name, variant in _measure(
            drafts, model, built, datasets, threads, device, measure, progress
        ):
            if (warning := far_below_dense(variant.report_cards[-1])) is not None:
                print_line(progress, f"{name}: {warning}")
                variant = variant.model_copy(update={"notes": (*variant.notes, warning)})
            artifact.write_record(drafts / name / artifact.RECORD, variant)
        if not is_addition:
            _clear(catalog, keep=built)
        for name in recipes.keys() - failures.keys():
            artifact.move(drafts / name, catalog / name)
    write_sample(catalog, model, datasets.validation.samples)
    artifact.write_record(catalog / CATALOG_FILE, model)
    if failures:
        raise RecipesFailed(failures, Catalog.load(catalog), len(recipes))
    return Catalog.load(catalog)


def measure_again(
    project_file: Path,
    catalog: Path,
    *,
    progress: Progress,
    threads: int = 1,
    device: Device = "cpu",
    measure: Measure = measure,
) -> Catalog:
    """Measure all variants of a catalog on a device; return the catalog with the new cards.

    Report cards of other hardware are kept. After all variants are measured, their cards are
    written one variant after the other, dense first. Raises `ValueError` if the folder is not a
    catalog, if its model, weights or datasets are not the project's, or if the device is a GPU and
    there is none.
    """
    hardware(threads, device)
    checked = load_checked_project(project_file)
    model = checked.model()
    require_same_model(Catalog.load(catalog), model, catalog)
    artifact.recover(catalog)
    variants = Catalog.load(catalog).variants
    for name, variant in _measure(
        catalog, model, variants, checked.datasets, threads, device, measure, progress
    ):
        artifact.write_record(catalog / name / artifact.RECORD, variant)
    return Catalog.load(catalog)


def apply_technique(
    name: str,
    technique: Technique,
    state: CompressionState,
    data: TrainingData,
    progress: Progress,
) -> CompressionState:
    """Apply one step of the recipe of a variant, check its result, and record what it changed.

    Raises `ValueError` with the variant and the technique if it does not support the network, or
    if the result does not compute what the step should.
    """
    try:
        after = apply_checked(technique, state, data, progress)
    except ValueError as error:
        raise ValueError(f"{name}: {technique.kind}: {error}") from error
    return replace(after, coverage=(*state.coverage, cover(technique, state, after)))


def make_variant(
    folder: Path,
    name: str,
    recipe: Recipe,
    state: CompressionState,
    data: TrainingData,
    *,
    threads: int,
    device: Device = "cpu",
) -> Variant:
    """Write the artifact of a compressed model to `folder`/<name>; return it without report cards.

    A model with packed layers is served in the runtime that is faster on the device, with this
    number of threads. The artifact of dense also contains the original weights.
    """
    given = state
    state = choose_runtime(state, data.validation.samples, threads=threads, device=device)
    runner, files = create_artifact(state, data)
    if name == DENSE:
        files[plan.WEIGHTS] = safetensors.torch.save(plan.storable_tensors(state.network))
    variant = Variant(
        name=name,
        recipe=recipe,
        runner=runner,
        files=(),
        notes=state.notes,
        coverage=_served_coverage(given, state),
    )
    return artifact.save(folder, variant, files)


def _served_coverage(given: CompressionState, served: CompressionState) -> tuple[StepCoverage, ...]:
    """Return what each step changed of the model that is served.

    Of dynamic INT8, sparse kernels use the packed layers and not the graph.
    """
    conversion, steps = given.conversion, given.coverage
    if conversion is None or served.graph is not None:
        return steps
    converter = conversion.converter
    assert isinstance(converter, Technique)
    packed = cover_packed(converter, conversion.source, served.packed & served.quantized)
    return tuple(packed if step.technique == converter.kind else step for step in steps)


def print_line(progress: Progress, line: str) -> None:
    """Print a line above the progress bars, literally."""
    progress.console.print(line, highlight=False, markup=False, soft_wrap=True)


def create_artifact(
    state: CompressionState, data: TrainingData
) -> tuple[Runtime, dict[str, bytes]]:
    """Return the runtime of a compressed model, and the files of its artifact by name.

    A model with packed layers runs in torch unless it has a graph. `choose_runtime` comes before.
    """
    if state.graph is not None:
        return "onnx", {MODEL_FILE: state.graph}
    if state.packed:
        rows = observe_rows(state.network, state.packed, data.validation.samples)
        layers, tensors = plan.make_plan(
            state.network, rows.keys(), quantized=state.quantized, rows=rows
        )
        files = {plan.WEIGHTS: safetensors.torch.save(tensors)}
        return "torch", {plan.PLAN: layers.model_dump_json(indent=2).encode(), **files}
    exported = export_state(state, data.validation.samples)
    return "onnx", {MODEL_FILE: exported.SerializeToString(deterministic=True)}


def _require_known(path: Path, project: Project, only: Sequence[str]) -> None:
    if unknown := sorted(set(only) - project.recipes.keys()):
        raise ValueError(
            f"{path} has no recipe for {', '.join(unknown)}; it has {', '.join(project.recipes)}"
        )


def require_same_model(catalog: Catalog, model: Model, folder: Path) -> None:
    """Raise `ValueError` unless the catalog in `folder` is one of this model."""
    if catalog.model != model:
        raise ValueError(
            f"{folder} holds variants of another model, weights or datasets than the project's; "
            "build all variants"
        )


def _clear(catalog: Path, keep: Mapping[str, object]) -> None:
    """Delete `catalog.json`, which the build writes again, and all variants not in `keep`."""
    (catalog / CATALOG_FILE).unlink(missing_ok=True)
    for record in catalog.glob(f"*/{artifact.RECORD}"):
        if record.parent.name not in keep:
            artifact.remove(catalog, record.parent.name)


def _measure(
    catalog: Path,
    model: Model,
    variants: Mapping[str, Variant],
    datasets: Datasets,
    threads: int,
    device: Device,
    measure: Measure,
    progress: Progress,
) -> list[tuple[str, Variant]]:
    """Measure the variants together; return each variant's name and record with the new card."""
    tasks: dict[str, TaskID] = {}

    def report(phase: str, share: float) -> None:
        if phase not in tasks:
            tasks[phase] = progress.add_task(f"measuring {phase}", total=1.0)
        progress.update(tasks[phase], completed=share)

    cards = measure(
        catalog,
        model,
        variants,
        datasets.test,
        threads=threads,
        device=device,
        on_progress=report,
    )
    measured = []
    for name, card in cards.items():
        others = (c for c in variants[name].report_cards if c.hardware.key != card.hardware.key)
        variant = variants[name].model_copy(update={"report_cards": (*others, card)})
        measured.append((name, variant))
    return measured

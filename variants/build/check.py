"""Checks whether a project can be built, before any long computation.

    project file ─▶ project, recipes, module, network, weights, datasets, answers   (seconds)
                 ─▶ all samples, export, accuracy, overlap, every recipe on few samples (longer)

Each check yields one or more `CheckResult`s, and an error does not stop the independent checks.
`build` makes the checks of the first row; `paretoserve check` makes all of them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from torch import nn

from variants.build import problems
from variants.build.answers import FEW, LARGEST, compare_answers
from variants.build.dry_run import DryRun, describe_seconds, dry_run, measuring_s
from variants.build.finding import CheckResult, OnResult, Reporter
from variants.build.network_problems import name_problems, network_problems
from variants.build.passes import SamplePass, run_splits
from variants.catalog.catalog import Model
from variants.catalog.recipe import DENSE, Project
from variants.compression.export import export
from variants.compression.export_comparison import TOLERANCE
from variants.compression.quiet import quiet
from variants.compression.techniques import resolve_all
from variants.compression.techniques.technique import Technique
from variants.model.dataset import Datasets, rows
from variants.model.loading import (
    describe_interface,
    load_datasets,
    load_module,
    load_network,
    load_path,
    load_weights,
)
from variants.model.state import CompressionState, Interface
from variants.model.threads import limit_threads
from variants.model.training import predict

ACCURACY_SAMPLES: Final = 512
"""Maximum number of validation samples on which the accuracy of dense is checked."""
SAMPLES_S: Final = 20.0
"""Time after which no further samples are run."""
RECIPES_S: Final = 60.0
"""Time after which no further recipe is tried."""


@dataclass(frozen=True, eq=False)
class CheckedProject:
    """A project that can be built. Its network has the weights and is in evaluation mode."""

    project: Project
    recipes: Mapping[str, tuple[Technique, ...]]
    """By variant name, dense first."""
    network: nn.Module
    weights: Path
    datasets: Datasets
    interface: Interface

    def model(self) -> Model:
        """Return the description of the model for a catalog; hashes the weights and all data."""
        return Model(
            name=self.project.name,
            factory=f"{self.project.model}:network",
            weights_sha256=hashlib.sha256(self.weights.read_bytes()).hexdigest(),
            datasets_sha256=self.datasets.sha256(),
            inputs=self.interface.inputs,
            outputs=self.interface.outputs,
            axes=self.interface.axes,
        )


def load_checked_project(project_file: Path) -> CheckedProject:
    """Load a project and make the quick checks.

    Raises `ValueError` with one line for each error.
    """
    results: list[CheckResult] = []
    checked = _load(project_file, Reporter(results.append))
    errors = [result.text for result in results if result.verdict == "error"]
    if checked is None or errors:
        raise ValueError("\n".join(errors))
    return checked


def check(project_file: Path, on_result: OnResult) -> bool:
    """Make all checks of a project, and return whether it can be built."""
    results: list[CheckResult] = []

    def collect(result: CheckResult) -> None:
        results.append(result)
        on_result(result)

    reporter = Reporter(collect)
    checked = _load(project_file, reporter)
    if checked is not None:
        speed = _check_samples(checked, reporter)
        is_exported = _check_export(checked, reporter)
        if speed is not None:
            reporter.attempt("accuracy", partial(_check_accuracy, checked, reporter))
        reporter.attempt("overlap", partial(_check_overlap, checked.datasets, reporter))
        if speed is not None and is_exported:
            _try_recipes(checked, speed, reporter)
    return all(result.verdict != "error" for result in results)


def _load(project_file: Path, reporter: Reporter) -> CheckedProject | None:
    """Load a project and make the quick checks; return None if it cannot be built.

    Limits torch to the CPUs of this process.
    """
    limit_threads()
    project = reporter.attempt("project", partial(Project.load, project_file))
    if project is None:
        return None
    reporter.ok("project", f"{project.name}: {len(project.recipes)} recipes")
    recipes = _resolve_recipes(project_file, project, reporter)
    if reporter.attempt("model", partial(load_module, project.model)) is None:
        return None
    reporter.ok("model", project.model)

    network = _load_network(project.model, reporter)
    weights = reporter.attempt("weights()", partial(load_path, f"{project.model}:weights"))
    has_weights = (
        network is not None and weights is not None and _load_weights(network, weights, reporter)
    )
    datasets = _load_datasets(project.model, reporter)
    if datasets is None or network is None:
        return None
    interface = _check_answers(network, datasets, reporter)
    if interface is None or weights is None or recipes is None or not has_weights:
        return None
    return CheckedProject(project, recipes, network, weights, datasets, interface)


def _resolve_recipes(
    project_file: Path, project: Project, reporter: Reporter
) -> dict[str, tuple[Technique, ...]] | None:
    resolved = {}
    for name in sorted(project.recipes, key=lambda name: name != DENSE):
        subject = f"recipe {name}"
        try:
            resolved[name] = resolve_all(project.recipes[name])
        except ValueError as error:
            reporter.errors(subject, [f"{project_file}: recipes.{name}: {error}"])
        else:
            steps = " ─▶ ".join(technique.kind for technique in resolved[name])
            reporter.ok(subject, steps or "the model as it is")
    return resolved if len(resolved) == len(project.recipes) else None


def _load_network(module: str, reporter: Reporter) -> nn.Module | None:
    network = reporter.attempt("network()", partial(load_network, f"{module}:network"))
    if network is None:
        return None
    errors = reporter.attempt("network()", partial(network_problems, network))
    reporter.errors("network()", errors or ())
    if errors != []:
        return None
    parameters = sum(parameter.numel() for parameter in network.parameters())
    reporter.ok("network()", f"{type(network).__name__} of {parameters:,} parameters")
    return network


def _load_weights(network: nn.Module, weights: Path, reporter: Reporter) -> bool:
    """Load the weights into the network; return whether that succeeded and all are finite."""

    def load() -> bool:
        load_weights(network, weights)
        parameters = dict(network.named_parameters())
        for name, tensor in network.state_dict().items():
            # A buffer may hold infinities, as the mask of causal attention does.
            if not (tensor.isfinite() if name in parameters else ~tensor.isnan()).all():
                raise ValueError(f"{weights}: {name} contains NaN or infinity")
        return True

    is_loaded = reporter.attempt("weights()", load) is not None
    if is_loaded:
        reporter.ok("weights()", f"{weights} fits: {len(network.state_dict())} tensors")
    return is_loaded


def _load_datasets(module: str, reporter: Reporter) -> Datasets | None:
    datasets = reporter.attempt("datasets()", partial(load_datasets, f"{module}:datasets"))
    if datasets is None:
        return None
    errors = reporter.attempt("datasets()", partial(problems.data_problems, datasets))
    reporter.errors("datasets()", errors or ())
    if errors != []:
        return None
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in problems.splits(datasets))
    reporter.ok("datasets()", sizes)
    return datasets


def _check_answers(network: nn.Module, datasets: Datasets, reporter: Reporter) -> Interface | None:
    """Run the network on a few samples; return its inputs and outputs, or None on an error."""
    samples = rows(datasets.validation.samples, slice(0, LARGEST))
    few = rows(samples, slice(0, FEW))
    interface = reporter.attempt(
        "answers", partial(describe_interface, network, few, datasets.axes)
    )
    if interface is None:
        return None
    names = [[spec.name for spec in specs] for specs in (interface.inputs, interface.outputs)]
    reporter.errors("answers", errors := name_problems(network, *names))
    scores = reporter.attempt("answers", partial(compare_answers, network, samples, interface))
    if scores is None:
        return None
    errors += (wrong := problems.label_problems(datasets, scores.shape[1]))
    reporter.errors("answers", wrong)
    if errors:
        return None
    shapes = (
        f"{spec.name} {spec.datatype} {list(spec.shape)}"
        for spec in (*interface.inputs, *interface.outputs)
    )
    reporter.ok("answers", f"{', '.join(shapes)}; {scores.shape[1]} classes")
    return interface


def _check_samples(checked: CheckedProject, reporter: Reporter) -> SamplePass | None:
    """Run dense over all samples; return how long that takes, or None on an error."""
    run = partial(run_splits, checked.network, checked.datasets, seconds=SAMPLES_S)
    if (done := reporter.attempt("samples", run)) is not None:
        reporter.ok("samples", done.describe())
    return done


def _check_export(checked: CheckedProject, reporter: Reporter) -> bool:
    samples = checked.datasets.validation.samples
    make = partial(export, checked.network, samples, checked.interface)
    is_exported = reporter.attempt("export", make) is not None
    if is_exported:
        reporter.ok(
            "export",
            f"the outputs of ONNX are equal to torch's, to {TOLERANCE:.0e}, for 1 to {LARGEST} "
            f"samples",
        )
    return is_exported


def _check_accuracy(checked: CheckedProject, reporter: Reporter) -> None:
    validation = checked.datasets.validation
    number = min(ACCURACY_SAMPLES, len(validation))
    part = validation.take(np.random.default_rng(0).permutation(len(validation))[:number])
    predictions = predict(checked.network, part.samples).numpy()
    warnings = problems.accuracy_warnings(predictions, part.labels)
    reporter.warnings("accuracy", warnings)
    if not warnings:
        share = float((predictions == part.labels).mean())
        reporter.ok("accuracy", f"{share:.1%} of {number} validation samples")


def _check_overlap(datasets: Datasets, reporter: Reporter) -> None:
    warnings = problems.overlap_warnings(datasets)
    reporter.warnings("overlap", warnings)
    if not warnings:
        reporter.ok("overlap", "no test sample is in another split")


def _try_recipes(checked: CheckedProject, speed: SamplePass, reporter: Reporter) -> None:
    """Try every recipe on few samples, and estimate the time of a build."""
    dense = CompressionState(checked.network, checked.interface, dense=checked.network)
    runs: dict[str, DryRun] = {}
    started = time.perf_counter()
    for name, techniques in checked.recipes.items():
        subject = f"dry run {name}"
        if time.perf_counter() - started > RECIPES_S:
            reporter.warnings(subject, [f"not tried: the others took {RECIPES_S:.0f} s"])
            continue
        with quiet():
            run = reporter.attempt(
                subject, partial(dry_run, dense, techniques, checked.datasets, speed)
            )
        if run is not None:
            runs[name] = run
            tried = f" on {run.samples:,} samples" if run.samples else ""
            reporter.ok(subject, f"works{tried}, in {describe_seconds(run.seconds)}")
    if len(runs) == len(checked.recipes):
        steps_s = sum(run.whole_s for run in runs.values())
        measured_s = measuring_s(runs, checked.datasets, speed)
        reporter.ok(
            "build",
            f"takes about {describe_seconds(steps_s + measured_s)} on this machine: "
            f"{describe_seconds(steps_s)} to make the variants, {describe_seconds(measured_s)} to "
            f"measure them",
        )

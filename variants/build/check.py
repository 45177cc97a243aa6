"""Checks whether a project can be built, before any long computation.

    project file ─▶ project, recipes, module, network, weights, datasets, answers   (seconds)
                 ─▶ export, accuracy, overlap of the splits                         (longer)

Each check yields one or more `CheckResult`s, and an error does not stop the independent checks.
`build` makes the checks of the first row; `paretoserve check` makes all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.text import Text
from torch import nn

from variants.build import problems
from variants.catalog.catalog import Model
from variants.catalog.recipe import DENSE, Project
from variants.compression.export import TOLERANCE, export
from variants.compression.techniques import resolve_all
from variants.compression.techniques.technique import Technique
from variants.model.dataset import Datasets, Samples, count, rows
from variants.model.forward import all_scores
from variants.model.loading import (
    describe_interface,
    load_datasets,
    load_module,
    load_network,
    load_path,
    load_weights,
)
from variants.model.state import Interface
from variants.model.threads import limit_threads
from variants.model.training import predict

T = TypeVar("T")

ACCURACY_SAMPLES: Final = 512
"""Maximum number of validation samples on which the accuracy of dense is checked."""
_BATCH_SIZE: Final = 4
"""Samples whose scores are computed in one batch, and then one by one."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    subject: str
    verdict: Literal["ok", "warning", "error"]
    text: str
    """For an error: what is wrong, and what would be right."""

    def line(self) -> Text:
        """Return the result as a coloured line with a mark for the verdict."""
        mark, style = _MARKS[self.verdict]
        return Text.assemble((f"{mark} {self.verdict:7} ", style), f"{self.subject}: {self.text}")


_MARKS: Final = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "bold red")}

OnResult: TypeAlias = Callable[[CheckResult], None]
"""Called with each result as soon as it is known."""


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
    """Load a project and make the quick checks; limit torch to the CPUs of this process.

    Raises `ValueError` with one line for each error.
    """
    limit_threads()
    results: list[CheckResult] = []
    checked = _load(project_file, _Reporter(results.append))
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

    reporter = _Reporter(collect)
    checked = _load(project_file, reporter)
    if checked is not None:
        _check_export(checked, reporter)
        _check_accuracy(checked, reporter)
        _check_overlap(checked.datasets, reporter)
    return all(result.verdict != "error" for result in results)


@dataclass(frozen=True)
class _Reporter:
    """Reports results of each verdict."""

    on_result: OnResult

    def ok(self, subject: str, text: str) -> None:
        self.on_result(CheckResult(subject, "ok", text))

    def warnings(self, subject: str, texts: Iterable[str]) -> None:
        for text in texts:
            self.on_result(CheckResult(subject, "warning", text))

    def errors(self, subject: str, texts: Iterable[str]) -> None:
        for text in texts:
            self.on_result(CheckResult(subject, "error", text))

    def attempt(self, subject: str, make: Callable[[], T]) -> T | None:
        """Return the result of `make`, or report its error and return None.

        `make` runs code of the user, which may raise any exception.
        """
        try:
            return make()
        except ValueError as error:
            self.errors(subject, [str(error)])
        except Exception as error:
            self.errors(subject, [f"{type(error).__name__}: {error}"])
        return None


def _load(project_file: Path, reporter: _Reporter) -> CheckedProject | None:
    """Load a project and make the quick checks; return None if it cannot be built."""
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
    project_file: Path, project: Project, reporter: _Reporter
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


def _load_network(module: str, reporter: _Reporter) -> nn.Module | None:
    network = reporter.attempt("network()", partial(load_network, f"{module}:network"))
    if network is None:
        return None
    errors = problems.network_problems(network)
    reporter.errors("network()", errors)
    if errors:
        return None
    parameters = sum(parameter.numel() for parameter in network.parameters())
    reporter.ok("network()", f"{type(network).__name__} of {parameters:,} parameters")
    return network


def _load_weights(network: nn.Module, weights: Path, reporter: _Reporter) -> bool:
    """Load the weights into the network; return whether that succeeded and all are finite."""

    def load() -> bool:
        load_weights(network, weights)
        for name, tensor in network.state_dict().items():
            if not tensor.isfinite().all():
                raise ValueError(f"{weights}: {name} contains NaN or infinity")
        return True

    is_loaded = reporter.attempt("weights()", load) is not None
    if is_loaded:
        reporter.ok("weights()", f"{weights} fits: {len(network.state_dict())} tensors")
    return is_loaded


def _load_datasets(module: str, reporter: _Reporter) -> Datasets | None:
    datasets = reporter.attempt("datasets()", partial(load_datasets, f"{module}:datasets"))
    if datasets is None:
        return None
    errors = problems.data_problems(datasets)
    reporter.errors("datasets()", errors)
    if errors:
        return None
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in problems.splits(datasets))
    reporter.ok("datasets()", sizes)
    return datasets


def _check_answers(network: nn.Module, datasets: Datasets, reporter: _Reporter) -> Interface | None:
    """Run the network on a few samples; return its inputs and outputs, or None on an error."""
    samples = rows(datasets.validation.samples, slice(0, _BATCH_SIZE))
    interface = reporter.attempt(
        "answers", partial(describe_interface, network, samples, datasets.axes)
    )
    if interface is None:
        return None
    scores = reporter.attempt("answers", partial(_compute_scores, network, samples))
    if scores is None:
        return None
    together, alone = scores
    errors = problems.score_problems(together, alone)
    errors = errors or problems.label_problems(datasets, together.shape[1])
    reporter.errors("answers", errors)
    if errors:
        return None
    shapes = (
        f"{spec.name} {spec.datatype} {list(spec.shape)}"
        for spec in (*interface.inputs, *interface.outputs)
    )
    reporter.ok("answers", f"{', '.join(shapes)}; {together.shape[1]} classes")
    return interface


def _compute_scores(network: nn.Module, samples: Samples) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the scores of the samples, computed in one batch and then one by one."""
    one_by_one = (rows(samples, slice(number, number + 1)) for number in range(count(samples)))
    alone = torch.cat([all_scores(network, sample) for sample in one_by_one])
    try:
        return all_scores(network, samples).numpy(), alone.numpy()
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"the network accepts one sample, but not a batch of {count(samples)}: {error}; the "
            f"first dimension of every input must be the batch"
        ) from error


def _check_export(checked: CheckedProject, reporter: _Reporter) -> None:
    samples = checked.datasets.validation.samples
    make = partial(export, checked.network, samples, checked.interface)
    if reporter.attempt("export", make) is not None:
        reporter.ok("export", f"the outputs of ONNX are equal to torch's, to {TOLERANCE:.0e}")


def _check_accuracy(checked: CheckedProject, reporter: _Reporter) -> None:
    validation = checked.datasets.validation
    number = min(ACCURACY_SAMPLES, len(validation))
    part = validation.take(np.random.default_rng(0).permutation(len(validation))[:number])
    predictions = predict(checked.network, part.samples).numpy()
    warnings = problems.accuracy_warnings(predictions, part.labels)
    reporter.warnings("accuracy", warnings)
    if not warnings:
        share = float((predictions == part.labels).mean())
        reporter.ok("accuracy", f"{share:.1%} of {number} validation samples")


def _check_overlap(datasets: Datasets, reporter: _Reporter) -> None:
    warnings = problems.overlap_warnings(datasets)
    reporter.warnings("overlap", warnings)
    if not warnings:
        reporter.ok("overlap", "no test sample is in another split")

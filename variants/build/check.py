"""Can a project be built? Everything that can be known before anything long starts.

    project file ─▶ project, recipes, module, network, weights, datasets, answers   (seconds)
                 ─▶ export, accuracy, overlap of the splits                         (more of them)

Each check is told as one `CheckResult`, and a wrong thing does not end the search for others.
`build` does the first row and refuses; `paretoserve check` does both and tells all.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.text import Text
from torch import nn
from torch.nn.utils import parametrize

from variants.build import problems
from variants.catalog.catalog import Model
from variants.catalog.recipe import DENSE, Project
from variants.compression.export import TOLERANCE, export
from variants.compression.techniques import resolve_all
from variants.compression.techniques.technique import Technique
from variants.model.dataset import Datasets, Samples, count, rows
from variants.model.forward import all_scores
from variants.model.loading import (
    describe,
    load_datasets,
    load_module,
    load_network,
    load_path,
    load_weights,
)
from variants.model.state import Interface
from variants.model.training import predict

T = TypeVar("T")

ANSWERED = 512
"""How many validation samples the dense network answers, to see whether it is trained."""
_TOGETHER = 4
"""How many samples are asked at once, and then one by one."""


@dataclass(frozen=True)
class CheckResult:
    """What one check found."""

    subject: str
    verdict: Literal["ok", "warning", "error"]
    text: str
    """In the case of an error: what is wrong, and what would be right."""

    def line(self) -> Text:
        """Render it, with a mark for the verdict, in colour."""
        mark, style = _MARKS[self.verdict]
        return Text.assemble((f"{mark} {self.verdict:7} ", style), f"{self.subject}: {self.text}")


_MARKS: Final = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "bold red")}

Tell: TypeAlias = Callable[[CheckResult], None]
"""Hears of each finding as it is made."""


@dataclass(frozen=True, eq=False)
class CheckedProject:
    """A project that can be built; its network has the weights and is in evaluation mode."""

    project: Project
    recipes: Mapping[str, tuple[Technique, ...]]
    """Dense first."""
    network: nn.Module
    weights: Path
    datasets: Datasets
    interface: Interface

    def model(self) -> Model:
        """Return what a catalog keeps of the model; hashes the weights and all the data."""
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
    """Load a project, quickly checked; raises `ValueError` with every error, on a line each."""
    findings: list[CheckResult] = []
    checked = _examine(project_file, findings.append)
    errors = [finding.text for finding in findings if finding.verdict == "error"]
    if checked is None or errors:
        raise ValueError("\n".join(errors))
    return checked


def check(project_file: Path, tell: Tell) -> bool:
    """Check everything about a project and `tell` of it; return whether it can be built."""
    findings: list[CheckResult] = []

    def hear(finding: CheckResult) -> None:
        findings.append(finding)
        tell(finding)

    checked = _examine(project_file, hear)
    if checked is not None:
        _try_export(checked, hear)
        _report_warnings(checked, hear)
    return all(finding.verdict != "error" for finding in findings)


def _examine(project_file: Path, tell: Tell) -> CheckedProject | None:
    project = _attempt("project", partial(Project.load, project_file), tell)
    if project is None:
        return None
    _say("project", f"{project.name}: {len(project.recipes)} recipes", tell)
    recipes = _resolve(project_file, project, tell)
    if _attempt("model", partial(load_module, project.model), tell) is None:
        return None
    _say("model", project.model, tell)

    network = _attempt("network()", partial(load_network, f"{project.model}:network"), tell)
    if network is not None and _attempt("network()", partial(_is_plain, network), tell) is None:
        network = None
    if network is not None:
        parameters = sum(parameter.numel() for parameter in network.parameters())
        _say("network()", f"{type(network).__name__} of {parameters:,} parameters", tell)
    weights = _attempt("weights()", partial(load_path, f"{project.model}:weights"), tell)
    is_trained = network is not None and weights is not None and _fill(network, weights, tell)
    datasets = _attempt("datasets()", partial(load_datasets, f"{project.model}:datasets"), tell)
    if datasets is None or not _has_sound_data(datasets, tell) or network is None:
        return None
    interface = _ask(network, datasets, tell)
    if interface is None or weights is None or recipes is None or not is_trained:
        return None
    return CheckedProject(project, recipes, network, weights, datasets, interface)


def _resolve(
    project_file: Path, project: Project, tell: Tell
) -> dict[str, tuple[Technique, ...]] | None:
    resolved = {}
    for name in sorted(project.recipes, key=lambda name: name != DENSE):
        try:
            resolved[name] = resolve_all(project.recipes[name])
        except ValueError as error:
            text = f"{project_file}: recipes.{name}: {error}"
            tell(CheckResult(f"recipe {name}", "error", text))
        else:
            steps = " ─▶ ".join(technique.kind for technique in resolved[name])
            _say(f"recipe {name}", steps or "the model as it is", tell)
    return resolved if len(resolved) == len(project.recipes) else None


def _is_plain(network: nn.Module) -> bool:
    """Require weights that techniques can change, in a network that they can copy."""
    if computed := [name for name, module in network.named_modules() if _computes_weights(module)]:
        raise ValueError(
            f"network() has layers whose weights are computed from others: {', '.join(computed)}; "
            f"call remove_parametrizations (or remove_weight_norm) in network(), and save the "
            f"plain weights"
        )
    try:
        copy.deepcopy(network)
    except Exception as error:
        raise ValueError(
            f"the network cannot be copied ({error}), and techniques change copies of it: its "
            f"modules may hold parameters, buffers and plain values, nothing computed from them"
        ) from error
    return True


def _computes_weights(module: nn.Module) -> bool:
    """Tell whether torch makes a weight anew for each call: weight_norm, old or new, and such."""
    hooks = module._forward_pre_hooks.values()
    return parametrize.is_parametrized(module) or any(
        type(hook).__module__.startswith("torch.nn.utils.") for hook in hooks
    )


def _fill(network: nn.Module, weights: Path, tell: Tell) -> bool:
    """Load the weights, which afterwards must all be numbers."""

    def load() -> bool:
        load_weights(network, weights)
        for name, tensor in network.state_dict().items():
            if not tensor.isfinite().all():
                raise ValueError(f"{weights}: {name} holds NaN or infinity")
        return True

    is_filled = _attempt("weights()", load, tell) is not None
    if is_filled:
        _say("weights()", f"{weights} fits: {len(network.state_dict())} tensors", tell)
    return is_filled


def _has_sound_data(datasets: Datasets, tell: Tell) -> bool:
    wrong = problems.data_problems(datasets)
    _report_errors("datasets()", wrong, tell)
    if not wrong:
        sizes = ", ".join(f"{name} {len(split):,}" for name, split in problems.splits(datasets))
        _say("datasets()", sizes, tell)
    return not wrong


def _ask(network: nn.Module, datasets: Datasets, tell: Tell) -> Interface | None:
    """Ask the network about a few samples: what it takes, what it answers, how many classes."""
    few = rows(datasets.validation.samples, slice(0, _TOGETHER))
    interface = _attempt("answers", partial(describe, network, few, datasets.axes), tell)
    if interface is None:
        return None
    scores = _attempt("answers", partial(_answer, network, few), tell)
    if scores is None:
        return None
    together, alone = scores
    wrong = problems.score_problems(together, alone)
    wrong = wrong or problems.label_problems(datasets, together.shape[1])
    _report_errors("answers", wrong, tell)
    if wrong:
        return None
    shapes = (
        f"{spec.name} {spec.datatype} {list(spec.shape)}"
        for spec in (*interface.inputs, *interface.outputs)
    )
    _say("answers", f"{', '.join(shapes)}; {together.shape[1]} classes", tell)
    return interface


def _answer(network: nn.Module, few: Samples) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the scores of the samples, asked together and then one by one."""
    one_by_one = (rows(few, slice(number, number + 1)) for number in range(count(few)))
    alone = torch.cat([all_scores(network, one) for one in one_by_one])
    try:
        return all_scores(network, few).numpy(), alone.numpy()
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"the network takes one sample, but not {count(few)} at once: {error}; the first "
            f"dimension of every input is the batch"
        ) from error


def _try_export(checked: CheckedProject, tell: Tell) -> None:
    samples = checked.datasets.validation.samples
    make = partial(export, checked.network, samples, checked.interface)
    if _attempt("export", make, tell) is not None:
        _say("export", f"as ONNX it answers as in torch, to {TOLERANCE:.0e}", tell)


def _report_warnings(checked: CheckedProject, tell: Tell) -> None:
    """Look for what is legal and yet likely a mistake."""
    validation = checked.datasets.validation
    number = min(ANSWERED, len(validation))
    some = validation.take(np.random.default_rng(0).permutation(len(validation))[:number])
    predictions = predict(checked.network, some.samples).numpy()
    doubts = problems.accuracy_warnings(predictions, some.labels)
    _warn("accuracy", doubts, tell)
    if not doubts:
        share = float((predictions == some.labels).mean())
        _say("accuracy", f"{share:.1%} of {number} validation samples", tell)

    shared = problems.overlap_warnings(checked.datasets)
    _warn("overlap", shared, tell)
    if not shared:
        _say("overlap", "no test sample is in another split", tell)


def _attempt(subject: str, make: Callable[[], T], tell: Tell) -> T | None:
    """Return what is made, or tell why it cannot be: code of the user's may fail in any way."""
    try:
        return make()
    except ValueError as error:
        tell(CheckResult(subject, "error", str(error)))
    except Exception as error:
        tell(CheckResult(subject, "error", f"{type(error).__name__}: {error}"))
    return None


def _say(subject: str, text: str, tell: Tell) -> None:
    tell(CheckResult(subject, "ok", text))


def _warn(subject: str, doubts: list[str], tell: Tell) -> None:
    for text in doubts:
        tell(CheckResult(subject, "warning", text))


def _report_errors(subject: str, wrong: list[str], tell: Tell) -> None:
    for text in wrong:
        tell(CheckResult(subject, "error", text))

"""Tries techniques on a specimen with the functions that `paretoserve build` calls.

Specimen ─▶ project ─▶ load_checked_project ─▶ apply_technique ─▶ make_variant ─▶ load_runner
         ─▶ judge of the case ─▶ Outcome
"""

from __future__ import annotations

import copy
import re
import sys
import traceback
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Final, Literal, TypeAlias

import safetensors.torch
import torch
import yaml
from torch import Tensor

import variants
from tests.small import quiet
from tests.zoo.cases import CASES, Served
from tests.zoo.comparison import Wrong, serve_with
from tests.zoo.specimen import Specimen
from variants.build.build import apply_technique, make_variant
from variants.build.check import CheckedProject, load_checked_project
from variants.catalog.catalog import Variant
from variants.catalog.recipe import DENSE
from variants.compression.techniques import resolve_all
from variants.model.state import CompressionState
from variants.runtime.onnx import FILE as MODEL_FILE
from variants.runtime.plan import storable_tensors
from variants.runtime.runner import load_runner

Verdict: TypeAlias = Literal["right", "refused", "wrong", "crashed"]

CHECK: Final = "check"
"""Name of the first case: the quick checks of a project. If they refuse it, no other is tried."""
_PACKAGE: Final = str(Path(variants.__path__[0]))
_MAX_LINES, _MAX_LENGTH = 3, 500


@dataclass(frozen=True)
class Outcome:
    """What became of a technique on a network."""

    specimen: str
    case: str
    verdict: Verdict
    text: str = ""
    """Why it was refused, or what is wrong."""


def try_specimen(specimen: Specimen, cases: Collection[str] = tuple(CASES)) -> list[Outcome]:
    """Try the cases on a specimen, after the check of its project."""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(_try(specimen, Path(folder), cases))


def _try(specimen: Specimen, folder: Path, cases: Collection[str]) -> Iterator[Outcome]:
    try:
        checked = load_checked_project(_write_project(specimen, folder))
    except Exception as error:
        yield _failure(specimen.name, CHECK, error)
        return
    yield Outcome(specimen.name, CHECK, "right")
    state = CompressionState(checked.network, checked.interface, dense=checked.network)
    for name in cases:
        try:
            variant = _try_case(specimen, folder, checked, state, name)
        except Exception as error:
            yield _failure(specimen.name, name, error)
        else:
            yield Outcome(specimen.name, name, "right")
            if name == DENSE:  # as in a running service, which exports dense once
                graph = (folder / variant.name / MODEL_FILE).read_bytes()
                state = replace(state, dense_graph=graph)


def _write_project(specimen: Specimen, folder: Path) -> Path:
    """Write the project of a specimen, with a module of its own; return the project file."""
    module: Any = ModuleType(f"zoo_{specimen.name.replace('-', '_')}")
    weights = folder / "weights.safetensors"
    safetensors.torch.save_file(storable_tensors(specimen.trained()), weights)
    module.__file__ = None
    module.network, module.datasets = specimen.network, specimen.data.datasets
    module.weights = lambda: weights
    sys.modules[module.__name__] = module
    path = folder / "recipes.yaml"
    project = {"name": specimen.name, "model": module.__name__, "recipes": {DENSE: []}}
    path.write_text(yaml.safe_dump(project))
    return path


def _try_case(
    specimen: Specimen, folder: Path, checked: CheckedProject, state: CompressionState, name: str
) -> Variant:
    """Build and serve a variant.

    Raises `Wrong` if it does not answer as it should, and any error of the product.
    """
    case, data = CASES[name], checked.datasets.training_data
    before = copy.deepcopy(checked.network.state_dict())
    for technique in resolve_all(case.recipe):
        state = apply_technique(name, technique, state, data, quiet())
    _require_unchanged(before, checked.network.state_dict())
    path = re.sub("[^a-z0-9]+", "-", name)
    variant = make_variant(folder, path, case.recipe, state, data, threads=1)
    with _beyond_refusal():
        runner = load_runner(folder, checked.model(), variant, threads=1)
        names = [output.name for output in checked.interface.outputs]
        case.judge(
            Served(
                serve_with(runner, names),
                state,
                dense=checked.network,
                known=checked.datasets.validation.samples,
                new=checked.datasets.test.samples,
                axes=checked.datasets.axes,
                jumps=specimen.jumps,
            )
        )
    return variant


class _ServingFailed(Exception):
    """Raised if a variant that was built cannot be loaded or run."""


@contextmanager
def _beyond_refusal() -> Iterator[None]:
    """Replace errors other than `Wrong`, since what was built must also run."""
    try:
        yield
    except Wrong:
        raise
    except Exception as error:
        raise _ServingFailed(f"{type(error).__name__}: {error}") from error


def _require_unchanged(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    for name, tensor in before.items():
        if not torch.equal(tensor, after[name]):
            raise Wrong(f"the technique modified {name} of the given network")


def _failure(specimen: str, case: str, error: Exception) -> Outcome:
    text = str(error) or type(error).__name__
    if isinstance(error, Wrong):
        return Outcome(specimen, case, "wrong", text)
    if isinstance(error, _ServingFailed):
        return Outcome(specimen, case, "crashed", f"built, but not served: {text}")
    # The command line prints these without a traceback. Others are defects.
    if not isinstance(error, ValueError | OSError):
        return Outcome(specimen, case, "crashed", f"{type(error).__name__}: {text}{_place(error)}")
    if not _origin(error).startswith(_PACKAGE):
        return Outcome(specimen, case, "crashed", f"from a library: {text}{_place(error)}")
    if len(text.splitlines()) > _MAX_LINES or len(text) > _MAX_LENGTH:
        return Outcome(specimen, case, "crashed", f"no sentence: {text}")
    return Outcome(specimen, case, "refused", text)


def _origin(error: BaseException) -> str:
    """Return the file that raised an error, before `apply_technique` added the variant's name."""
    frames = traceback.extract_tb(error.__traceback__)
    if frames[-1].name == apply_technique.__name__ and error.__cause__ is not None:
        return _origin(error.__cause__)
    return frames[-1].filename


def _place(error: BaseException) -> str:
    """Return the last line of the product that led to an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(_PACKAGE)]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""

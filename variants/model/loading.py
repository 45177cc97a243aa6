"""Loading of user models: a Python module with three functions, given by its import path.

    network() -> nn.Module    the architecture, with any initial weights
    weights() -> Path         a safetensors file of its trained `state_dict()`
    datasets() -> Datasets    samples and labels in three splits

Modules are imported from the installed packages and the working directory, as by `python -m`.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from variants.catalog.catalog import TensorSpec
from variants.catalog.datatype import DATATYPE
from variants.model.dataset import Axes, Datasets, Samples, rows, shortened
from variants.model.forward import outputs, tensors
from variants.model.input_types import accepted_types
from variants.model.state import Interface
from variants.model.state_dict import mismatches

T = TypeVar("T")

_PACKAGE_FOLDER = str(Path(__file__).parents[1])
_OUTPUT_TYPES = {torch.float32, torch.float64}
_IMPORT_PATH_HINT = "write an import path with dots and without `.py`: examples.my.model"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A user model. The network has its trained weights and is in evaluation mode."""

    network: nn.Module
    weights: Path
    datasets: Datasets


def load_model(module: str) -> LoadedModel:
    """Call the three functions of the module. Raises `ValueError` with the first problem."""
    network = load_network(f"{module}:network")
    weights = load_path(f"{module}:weights")
    load_weights(network, weights)
    return LoadedModel(network, weights, load_datasets(f"{module}:datasets"))


def load_network(reference: str) -> nn.Module:
    """Call `module:function` and return its untrained network in evaluation mode."""
    return _call(reference, nn.Module, "a torch.nn.Module").eval()


def load_path(reference: str) -> Path:
    """Call `module:function` and return the path of the weights."""
    return _call(reference, Path, "the pathlib.Path of a safetensors file")


def load_datasets(reference: str) -> Datasets:
    """Call `module:function` and return the three splits."""
    return _call(reference, Datasets, "variants.model.dataset.Datasets")


def load_reference(reference: str) -> Callable[[], object]:
    """Import the function `module:function`, which takes no arguments.

    Raises `ValueError` with the missing module or function and the searched places.
    """
    module_name, _, function_name = reference.partition(":")
    module = load_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"{module.__file__ or module_name} has no function {function_name}()")
    typed: Callable[[], object] = function
    return typed


def load_module(name: str) -> ModuleType:
    """Import a module by its import path. Raises `ValueError` with the reason on failure."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        is_module_itself = error.name is not None and f"{name}.".startswith(f"{error.name}.")
        hint = f"; {_IMPORT_PATH_HINT}" if is_module_itself else ""
        raise ValueError(
            f"cannot import {name}: {error}; searched the installed packages and {here}{hint}"
        ) from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"cannot import {name}: {_describe_error(error)}") from error


def load_weights(network: nn.Module, path: Path) -> None:
    """Load the tensors of a safetensors file into the network. Names and shapes must match exactly.

    Raises `ValueError` with the file and the tensors that do not match.
    """
    if not path.is_file():
        raise ValueError(
            f"there is no weights file {path}; train the model or fetch its weights first"
        )
    try:
        stored = load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file ({error}); write one with "
            f"safetensors.torch.save_file(variants.runtime.plan.storable_tensors(network), path)"
        ) from error
    if problems := mismatches(network.state_dict(), stored):
        raise ValueError(f"{path} does not fit the network: {'; '.join(problems)}")
    network.load_state_dict(stored)


def describe_interface(network: nn.Module, samples: Samples, axes: Axes) -> Interface:
    """Return the interface of a network: inputs as in the samples, outputs from a forward pass.

    The first output is called `logits`, the others `output_1` and so on. An output dimension is
    variable if its size changes with one of the `axes`.

    Raises `ValueError` if the samples or the axes do not fit the network.
    """
    _require_axes(samples, axes)
    sample = rows(samples, slice(0, 1))
    try:
        full = _outputs(network, sample)
        shorter = _outputs(network, shortened(sample, axes))
    except (Exception, SystemExit) as error:
        shapes = ", ".join(f"{n} {a.dtype} {list(a.shape)}" for n, a in sample.items())
        hint = accepted_types(network, sample)
        raise ValueError(
            f"the network cannot take a sample ({shapes}): "
            f"{hint or _describe_error(error) + _arguments_hint(error)}"
        ) from error
    if problems := [p for number, each in enumerate(full) for p in _output_problems(number, each)]:
        raise ValueError("; ".join(problems))
    inputs = tuple(
        _spec(name, array, frozenset(axes.get(name, {}))) for name, array in samples.items()
    )
    output_specs = tuple(
        _spec(_output_name(number), long.detach().numpy(), _changed(long, short))
        for number, (long, short) in enumerate(zip(full, shorter, strict=True))
    )
    return Interface(inputs, output_specs, axes)


def _arguments_hint(error: BaseException) -> str:
    """Return how `forward` is called, if its arguments may be the cause."""
    if not isinstance(error, TypeError):
        return ""
    return "; forward takes a tensor for each input, by position, in the order of datasets()"


def _require_axes(samples: Samples, axes: Axes) -> None:
    for name, named in axes.items():
        if name not in samples:
            raise ValueError(
                f"axes name an unknown input {name!r}; the inputs are {', '.join(samples)}"
            )
        for axis in named:
            if not 1 <= axis < samples[name].ndim:
                raise ValueError(
                    f"axes of {name!r}: a variable dimension must be from 1 to "
                    f"{samples[name].ndim - 1}, got {axis}"
                )


def _outputs(network: nn.Module, samples: Samples) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        return outputs(network.eval(), tensors(samples))


def _output_name(number: int) -> str:
    return "logits" if number == 0 else f"output_{number}"


def _output_problems(number: int, output: Tensor) -> list[str]:
    """Return what keeps an output from being served: numbers that are neither FP32 nor FP64."""
    if output.dtype in _OUTPUT_TYPES or not (output.is_floating_point() or output.is_complex()):
        return []
    kind = str(output.dtype).removeprefix("torch.")
    return [f"the network returns {_output_name(number)!r} as {kind}: return it with .float()"]


def _changed(first: Tensor, second: Tensor) -> frozenset[int]:
    return frozenset(axis for axis in range(first.ndim) if first.shape[axis] != second.shape[axis])


def _spec(name: str, array: NDArray[Any], variable: frozenset[int]) -> TensorSpec:
    datatype = DATATYPE.get(
        np.dtype(array.dtype), str(array.dtype)
    )  # validation rejects unknown ones
    shape = (-1 if axis in variable else size for axis, size in enumerate(array.shape))
    return TensorSpec.model_validate(
        {"name": name, "datatype": datatype, "shape": (-1, *list(shape)[1:])}
    )


def _call(reference: str, kind: type[T], expected: str) -> T:
    function = load_reference(reference)
    call = f"{reference.replace(':', '.')}()"
    try:
        returned = function()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{call} failed: {_describe_error(error)}") from error
    if not isinstance(returned, kind):
        raise ValueError(f"{call} must return {expected}, got {type(returned).__name__}")
    return returned


def _describe_error(error: BaseException) -> str:
    """Describe an error in user code, with its location. A ValueError keeps its own message."""
    if isinstance(error, ValueError):
        return str(error)
    places = [
        f" ({Path(frame.filename).name}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_PACKAGE_FOLDER, "<"))
        and "site-packages" not in frame.filename
    ]
    return f"{type(error).__name__}: {error}{places[-1] if places else ''}"

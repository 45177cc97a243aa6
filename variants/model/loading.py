"""What the user brings, loaded: one Python file with three functions, named by its import path.

    network() -> nn.Module    the architecture, with whatever weights it is made with
    weights() -> Path         a safetensors file of its `state_dict()`, trained
    datasets() -> Datasets    samples and labels in three splits

The working directory is searched as well as the installed packages, as `python -m` does.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
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
from variants.model.state import Interface

T = TypeVar("T")

_OURS = str(Path(__file__).parents[1])
_IMPORT_PATH = "an import path is written without `.py`, with dots for slashes: examples.my.model"
_NAMED = 3
"""How many tensors a message names."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model as it was brought: the network has its weights and is in evaluation mode."""

    network: nn.Module
    weights: Path
    datasets: Datasets


def load_model(module: str) -> LoadedModel:
    """Call the three functions of the module; raises `ValueError` with the first thing wrong."""
    network = load_network(f"{module}:network")
    weights = load_path(f"{module}:weights")
    load_weights(network, weights)
    return LoadedModel(network, weights, load_datasets(f"{module}:datasets"))


def load_network(reference: str) -> nn.Module:
    """Build the network that `module:function` names, in evaluation mode, its weights untrained."""
    return _call(reference, nn.Module, "a torch.nn.Module").eval()


def load_path(reference: str) -> Path:
    """Call the function that `module:function` names for the place of the weights."""
    return _call(reference, Path, "the pathlib.Path of a safetensors file")


def load_datasets(reference: str) -> Datasets:
    """Call the function that `module:function` names for the three splits."""
    return _call(reference, Datasets, "variants.model.dataset.Datasets")


def load_reference(reference: str) -> Callable[[], object]:
    """Import the function that `module:function` names; it takes no arguments.

    Raises `ValueError` that says which part of it could not be found, and where was looked.
    """
    module_name, _, function_name = reference.partition(":")
    module = load_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"{module.__file__ or module_name} has no function {function_name}()")
    found: Callable[[], object] = function
    return found


def load_module(name: str) -> ModuleType:
    """Import a module by its import path; raises `ValueError` that says why it cannot be."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        is_this = error.name is not None and f"{name}.".startswith(f"{error.name}.")
        hint = f"; {_IMPORT_PATH}" if is_this else ""
        raise ValueError(
            f"cannot import {name}: {error}; the installed packages and {here} were searched{hint}"
        ) from error
    except Exception as error:
        raise ValueError(f"cannot import {name}: {_told(error)}") from error


def load_weights(network: nn.Module, path: Path) -> None:
    """Put the tensors of a safetensors file into the network, all of them and no others.

    Raises `ValueError` that names the file and the tensors that do not fit.
    """
    if not path.is_file():
        raise ValueError(f"there is no weights file {path}; train the model first, or fetch them")
    try:
        given = load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is no safetensors file ({error}); write one with "
            f"safetensors.torch.save_file(variants.runtime.plan.storable_tensors(network), path)"
        ) from error
    if wrong := _misfits(network.state_dict(), given):
        raise ValueError(f"{path} does not fit the network: {'; '.join(wrong)}")
    network.load_state_dict(given)


def describe(network: nn.Module, samples: Samples, axes: Axes) -> Interface:
    """Return the inputs of a network as the samples name them, and its outputs.

    One output is called `logits`; of several, the first is, and the others `output_1` and so on. A
    dimension of an output is variable if it changes with one of the `axes`.

    Raises `ValueError` that names what does not fit the network.
    """
    _require_axes(samples, axes)
    one = rows(samples, slice(0, 1))
    try:
        whole = _outputs(network, one)
        shorter = _outputs(network, shortened(one, axes))
    except Exception as error:
        shapes = ", ".join(f"{n} {a.dtype} {list(a.shape)}" for n, a in one.items())
        raise ValueError(f"the network cannot take a sample ({shapes}): {_told(error)}") from error
    inputs = tuple(
        _spec(name, array, frozenset(axes.get(name, {}))) for name, array in samples.items()
    )
    answers = tuple(
        _spec("logits" if number == 0 else f"output_{number}", long, _changed(long, short))
        for number, (long, short) in enumerate(zip(whole, shorter, strict=True))
    )
    return Interface(inputs, answers, axes)


def _require_axes(samples: Samples, axes: Axes) -> None:
    for name, named in axes.items():
        if name not in samples:
            raise ValueError(f"axes name the input {name!r}; there are {', '.join(samples)}")
        for axis in named:
            if not 1 <= axis < samples[name].ndim:
                raise ValueError(
                    f"axes of {name!r}: its dimensions beside the first are 1 to "
                    f"{samples[name].ndim - 1}, not {axis}"
                )


def _outputs(network: nn.Module, samples: Samples) -> list[NDArray[Any]]:
    with torch.inference_mode():
        return [output.numpy() for output in outputs(network.eval(), tensors(samples))]


def _changed(one: NDArray[Any], other: NDArray[Any]) -> frozenset[int]:
    return frozenset(axis for axis in range(one.ndim) if one.shape[axis] != other.shape[axis])


def _spec(name: str, array: NDArray[Any], variable: frozenset[int]) -> TensorSpec:
    datatype = DATATYPE.get(np.dtype(array.dtype), str(array.dtype))  # an unknown one is refused
    shape = (-1 if axis in variable else size for axis, size in enumerate(array.shape))
    return TensorSpec.model_validate(
        {"name": name, "datatype": datatype, "shape": (-1, *list(shape)[1:])}
    )


def _call(reference: str, kind: type[T], wanted: str) -> T:
    function = load_reference(reference)
    called = f"{reference.replace(':', '.')}()"
    try:
        returned = function()
    except Exception as error:
        raise ValueError(f"{called} failed: {_told(error)}") from error
    if not isinstance(returned, kind):
        raise ValueError(f"{called} must return {wanted}, got {type(returned).__name__}")
    return returned


def _told(error: Exception) -> str:
    """Return what went wrong in code of the user's, and where, unless it was said on purpose."""
    if isinstance(error, ValueError):
        return str(error)
    places = [
        f" ({Path(frame.filename).name}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_OURS, "<")) and "site-packages" not in frame.filename
    ]
    return f"{type(error).__name__}: {error}{places[-1] if places else ''}"


def _misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    wrong = []
    if missing := [name for name in wanted if name not in given]:
        wrong.append(f"it lacks {_list(missing)}")
    if unknown := [name for name in given if name not in wanted]:
        wrong.append(f"the network has no {_list(unknown)}")
    if reshaped := [
        f"{name} {list(given[name].shape)} where the network has {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]:
        wrong.append(f"it has {_list(reshaped)}")
    return wrong


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more

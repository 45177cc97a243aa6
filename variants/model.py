"""What the user brings, loaded: the network by its factory, its weights, its datasets.

A reference is `module:function`; the function takes no arguments. The working directory is
searched as well as the installed packages, as `python -m` does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file
from torch import nn

from variants.catalog import TensorSpec
from variants.dataset import Datasets, Samples
from variants.datatype import DATATYPE


def load_reference(reference: str) -> Callable[[], object]:
    """Import the function that `module:function` names.

    Raises `ValueError` that says which part of it could not be found, and where was looked.
    """
    module_name, _, function_name = reference.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"cannot import {reference!r}: {error}; the installed packages and {here} were searched"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"{reference!r}: module {module_name} has no function {function_name!r}")
    found: Callable[[], object] = function
    return found


def load_network(factory: str) -> nn.Module:
    """Build the network that `factory` names, in evaluation mode, with whatever weights it has."""
    network = load_reference(factory)()
    if not isinstance(network, nn.Module):
        raise ValueError(f"{factory!r} must return an nn.Module, got {type(network).__name__}")
    return network.eval()


def load_datasets(reference: str) -> Datasets:
    """Call the function that `reference` names for the three splits."""
    datasets = load_reference(reference)()
    if not isinstance(datasets, Datasets):
        raise ValueError(
            f"{reference!r} must return variants.dataset.Datasets, got {type(datasets).__name__}"
        )
    return datasets


def load_weights(network: nn.Module, path: Path) -> None:
    """Put the tensors of a safetensors file into the network, all of them and no others.

    Raises `ValueError` that names the file and the tensors that do not fit.
    """
    if not path.is_file():
        raise ValueError(f"there is no weights file {path}; train the model first")
    try:
        network.load_state_dict(load_file(path))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit the model: {error}") from error


def describe(
    network: nn.Module, samples: Samples
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Name the inputs and outputs of a network with one of each: `input` and `logits`."""
    with torch.inference_mode():
        outputs = network.eval()(torch.from_numpy(samples[:1])).numpy()
    return (_spec("input", samples),), (_spec("logits", outputs),)


def _spec(name: str, array: Samples) -> TensorSpec:
    datatype = DATATYPE.get(np.dtype(array.dtype), str(array.dtype))  # an unknown one is refused
    return TensorSpec.model_validate(
        {"name": name, "datatype": datatype, "shape": (-1, *array.shape[1:])}
    )

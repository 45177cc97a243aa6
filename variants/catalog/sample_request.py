"""An example request with a real sample of the test data, stored in the catalog."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from variants.catalog import artifact
from variants.catalog.catalog import Model
from variants.catalog.datatype import NUMPY
from variants.catalog.zero_inputs import zero_input

FILE = "request.json"


def sample_path(catalog: Path) -> Path:
    """Return the path of the example request of a catalog."""
    return catalog / FILE


def read_inputs(catalog: Path, model: Model) -> list[dict[str, Any]]:
    """Return the inputs of the example request, or zeros if its file does not fit the model.

    Each has `name`, `datatype`, `shape` and `data`, as in a request of Open Inference V2.
    """
    try:
        inputs: list[dict[str, Any]] = json.loads(sample_path(catalog).read_text())["inputs"]
        found = [
            (each["name"], each["datatype"], len(each["shape"]), len(each["data"]))
            for each in inputs
        ]
        expected = [
            (spec.name, spec.datatype, len(spec.shape), prod(each["shape"]))
            for spec, each in zip(model.inputs, inputs, strict=True)
        ]
    except (OSError, ValueError, TypeError, KeyError):
        return zeros(model)
    return inputs if found == expected else zeros(model)


def read_batch(catalog: Path, model: Model, size: int) -> dict[str, NDArray[Any]]:
    """Return the sample of the example request, repeated to a batch of this size."""
    request = json.loads(sample_path(catalog).read_bytes())
    tensors = {tensor["name"]: tensor for tensor in request["inputs"]}
    return {
        spec.name: np.repeat(
            np.array(tensors[spec.name]["data"], NUMPY[spec.datatype]).reshape(
                tensors[spec.name]["shape"]
            ),
            size,
            axis=0,
        )
        for spec in model.inputs
    }


def zeros(model: Model) -> list[dict[str, Any]]:
    """Return one sample of zeros as the inputs of a request; variable dimensions have size 1."""
    return _inputs(model, {spec.name: zero_input(spec, 1) for spec in model.inputs})


def write_zeros(catalog: Path, model: Model) -> None:
    """Write a request with a sample of zeros, for a catalog without the example of a build."""
    _write(catalog, zeros(model))


def write_sample(catalog: Path, model: Model, samples: Mapping[str, NDArray[Any]]) -> None:
    """Write the first sample as the body of an Open Inference V2 request."""
    _write(catalog, _inputs(model, samples))


def _inputs(model: Model, samples: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Return the first sample as the inputs of a request."""
    first = {spec.name: samples[spec.name][:1] for spec in model.inputs}
    return [
        {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": list(first[spec.name].shape),
            "data": ["" if value == b"" else value for value in first[spec.name].ravel().tolist()],
        }
        for spec in model.inputs
    ]


def _write(catalog: Path, inputs: list[dict[str, Any]]) -> None:
    artifact.write_file(sample_path(catalog), json.dumps({"inputs": inputs}).encode())

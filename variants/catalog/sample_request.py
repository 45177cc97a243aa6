"""An example request with a real sample of the test data, stored in the catalog."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from variants.catalog import artifact
from variants.catalog.catalog import Model

FILE = "request.json"


def sample_path(catalog: Path) -> Path:
    """Return the path of the example request of a catalog."""
    return catalog / FILE


def write_sample(catalog: Path, model: Model, samples: Mapping[str, NDArray[Any]]) -> None:
    """Write the first sample as the body of an Open Inference V2 request."""
    inputs = [
        {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": [1, *samples[spec.name].shape[1:]],
            "data": samples[spec.name][0].ravel().tolist(),
        }
        for spec in model.inputs
    ]
    artifact.write_file(sample_path(catalog), json.dumps({"inputs": inputs}).encode())

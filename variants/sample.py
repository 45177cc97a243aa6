"""One real sample of a model's data, as a request that anybody can send."""

from __future__ import annotations

import json
from pathlib import Path

from variants import artifact
from variants.catalog import Model
from variants.dataset import Samples

FILE = "request.json"


def sample_path(catalog: Path) -> Path:
    """Return where a catalog keeps its sample request."""
    return catalog / FILE


def write_sample(catalog: Path, model: Model, samples: Samples) -> None:
    """Write the first of the samples as the body of an Open Inference V2 request."""
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

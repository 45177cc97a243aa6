"""The model that all servers serve, the sample that they are sent, and the logits it must get."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from loadtests.peers.exchange import Features, Logits
from variants.catalog.catalog import Catalog, Model
from variants.catalog.recipe import DENSE
from variants.runtime.onnx import FILE
from variants.runtime.runner import load_runner

SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Reference:
    """The dense variant of a catalog, and one sample with its logits by variant."""

    path: Path
    """The ONNX file of the dense variant."""
    model: Model
    features: Features
    logits: dict[str, Logits]

    @property
    def dense(self) -> dict[str, Logits]:
        """The logits of the dense variant."""
        return {DENSE: self.logits[DENSE]}


def load(catalog: Path) -> Reference:
    """Load a catalog and compute the logits of a random sample with every variant.

    Raises ValueError with the reason if the folder is no catalog, if its model is not one from FP32
    `[n, features]` to FP32 `[n, classes]`, or if dense is not stored as ONNX.
    """
    content = Catalog.load(catalog)
    model, path = content.model, (catalog / DENSE / FILE).resolve()
    tensors = (*model.inputs, *model.outputs)
    if (len(model.inputs), len(model.outputs)) != (1, 1) or any(
        tensor.datatype != "FP32" or len(tensor.shape) != 2 for tensor in tensors
    ):
        raise ValueError(f"{catalog}: the model must have one FP32 vector as input and as output")
    if not path.is_file():
        raise ValueError(f"{catalog}: the dense variant has no {FILE}")
    generator = np.random.default_rng(SEED)
    features = generator.random(model.inputs[0].shape[1], dtype=np.float32)
    logits = {
        name: load_runner(catalog, model, variant, threads=1)(
            {model.inputs[0].name: features[None]}
        )[model.outputs[0].name][0]
        for name, variant in content.variants.items()
    }
    return Reference(path, model, features, logits)

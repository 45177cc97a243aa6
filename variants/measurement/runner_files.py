"""What a variant's runner reads: those files, what they compress to, and the graph they compute."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from variants.catalog import artifact
from variants.catalog.catalog import Model, Variant
from variants.compression.export import export
from variants.model.dataset import Samples
from variants.model.loading import load_network
from variants.model.state import Interface
from variants.runtime.onnx import FILE
from variants.runtime.plan import PLAN, WEIGHTS, Plan, rebuild

LEVEL: Final = 6
"""Of zlib; a change makes cards of before and after incomparable."""


def runner_files(catalog: Path, variant: Variant) -> dict[str, bytes]:
    """Return by name the files that the variant's runner reads, hashes checked.

    Dense brings its weights as they were given beside its graph; no runner reads those.
    """
    wanted = {"onnx": (FILE,), "torch": (PLAN, WEIGHTS)}[variant.runner]
    return {
        file.name: artifact.read(catalog / variant.name, file)
        for file in variant.files
        if file.name in wanted
    }


def compressed_bytes(files: Mapping[str, bytes]) -> int:
    """Return the size of the files, each compressed by zlib at level 6."""
    return sum(len(zlib.compress(content, LEVEL)) for content in files.values())


def graph(model: Model, variant: Variant, files: Mapping[str, bytes], samples: Samples) -> bytes:
    """Return what the variant computes as a serialised ONNX model: its own, or exported for this.

    `samples` are two or more. Raises `ValueError` if a network that runs in torch has no ONNX form.
    """
    if variant.runner == "onnx":
        return files[FILE]
    plan = Plan.model_validate_json(files[PLAN])
    network = rebuild(load_network(model.factory), plan, files[WEIGHTS])
    exported = export(network, samples, Interface(model.inputs, model.outputs))
    serialised: bytes = exported.SerializeToString()
    return serialised

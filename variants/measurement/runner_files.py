"""The files that the runner of a variant reads, their compressed size and their ONNX model."""

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
"""zlib level. Report cards made with different levels are not comparable."""


def runner_files(catalog: Path, variant: Variant) -> dict[str, bytes]:
    """Return the files that the runner of the variant reads, by name, after verifying their hashes.

    The artifact of dense also contains the original weights, which the runner does not read.
    """
    names = {"onnx": (FILE,), "torch": (PLAN, WEIGHTS)}[variant.runner]
    return {
        file.name: artifact.read(catalog / variant.name, file)
        for file in variant.files
        if file.name in names
    }


def compressed_bytes(files: Mapping[str, bytes]) -> int:
    """Return the total size of the files, each compressed by zlib at `LEVEL`."""
    return sum(len(zlib.compress(content, LEVEL)) for content in files.values())


def to_onnx(model: Model, variant: Variant, files: Mapping[str, bytes], samples: Samples) -> bytes:
    """Return the variant as a serialized ONNX model. A torch variant is exported.

    At least two `samples` are needed. Raises `ValueError` if a torch network cannot be exported.
    """
    if variant.runner == "onnx":
        return files[FILE]
    plan = Plan.model_validate_json(files[PLAN])
    network = rebuild(load_network(model.factory), plan, files[WEIGHTS])
    exported = export(network, samples, Interface(model.inputs, model.outputs))
    serialized: bytes = exported.SerializeToString()
    return serialized

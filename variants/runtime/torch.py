"""Runner of torch variants, which ONNX operators cannot express, such as packed 2:4 weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from variants.catalog import artifact
from variants.catalog.catalog import Model, Variant
from variants.catalog.datatype import NUMPY
from variants.model.loading import load_network
from variants.runtime.plan import PLAN, WEIGHTS, Plan, rebuild
from variants.runtime.runner import Runner, Tensors


class TorchRunner:
    """Runs a network in evaluation mode with named inputs and outputs."""

    def __init__(self, network: nn.Module, model: Model, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self._network = network.eval()
        self._inputs = [spec.name for spec in model.inputs]
        self._outputs = [spec.name for spec in model.outputs]

    def __call__(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Run one batch."""
        with torch.inference_mode():
            outputs = self._network(*(_tensor(inputs[name]) for name in self._inputs))
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        return {name: _array(output) for name, output in zip(self._outputs, outputs, strict=True)}


def load_torch(folder: Path, model: Model, variant: Variant, *, threads: int) -> Runner:
    """Rebuild the network of the variant in `folder` after verifying the hashes of its files."""
    files = artifact.read_all(folder, variant)
    for name in (PLAN, WEIGHTS):
        if name not in files:
            raise ValueError(f"{folder}: the variant lists no {name}")
    plan = Plan.model_validate_json(files[PLAN])
    network = rebuild(load_network(model.factory), plan, files[WEIGHTS])
    return TorchRunner(network, model, threads=threads)


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return a tensor that shares the array's memory. Copy read-only arrays, such as messages."""
    writable = array if array.flags.writeable else array.copy()
    if writable.dtype == NUMPY["BF16"]:  # torch does not know the BF16 dtype of ml_dtypes
        return torch.from_numpy(writable.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(writable)


def _array(output: torch.Tensor) -> NDArray[Any]:
    if output.dtype == torch.bfloat16:
        return output.view(torch.int16).numpy().view(NUMPY["BF16"])
    return output.numpy()

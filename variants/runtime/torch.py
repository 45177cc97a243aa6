"""Runner of torch variants, whose sparse layers ONNX operators cannot express.

plan and weights ─▶ rebuilt network ─▶ sparse layers replaced by kernels ─▶ TorchRunner
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from variants.catalog import artifact
from variants.catalog.catalog import Model, Variant
from variants.catalog.datatype import NUMPY
from variants.catalog.device import Device, is_gpu
from variants.catalog.hardware import hardware
from variants.catalog.kernels import KernelTable
from variants.model.fast_path import without_fast_path
from variants.model.loading import load_network
from variants.model.state import Interface
from variants.runtime.gpu.device import require_cuda
from variants.runtime.gpu.dispatch import measure_layers
from variants.runtime.gpu.network import use_gpu
from variants.runtime.memory import return_freed_memory
from variants.runtime.plan import PLAN, WEIGHTS, Plan, restore
from variants.runtime.runner import Runner, Tensors
from variants.runtime.sparse.chain import ChainedNetwork, find_chain
from variants.runtime.sparse.dispatch import measure_kernels
from variants.runtime.sparse.network import describe_layers, sparse_layers, use_kernels


class TorchRunner:
    """Runs a network in evaluation mode with named inputs and outputs.

    A call copies the inputs to the device and the outputs back, and so ends when the device is
    done. Evaluation draws no random numbers, so no seed is set.
    """

    def __init__(
        self,
        network: nn.Module,
        interface: Model | Interface,
        *,
        threads: int,
        device: Device = "cpu",
        fast_path: bool = False,
    ) -> None:
        """Move the network to the device; raises `ValueError` if torch cannot use it.

        With `fast_path`, torch may bypass the layers of transformers; see `without_fast_path`.
        """
        torch.set_num_threads(threads)
        self._is_on_gpu = is_gpu(device)
        self._device = require_cuda() if self._is_on_gpu else torch.device("cpu")
        self._network = network.to(self._device).eval()
        self._fast_path = fast_path
        self._inputs = [spec.name for spec in interface.inputs]
        self._outputs = [spec.name for spec in interface.outputs]
        self._chain = None if self._is_on_gpu else _find_chain(self._network, interface, threads)

    def __call__(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Run one batch."""
        if self._chain is not None:
            result = self._chain.run(inputs[self._inputs[0]])
            if result is not None:
                return {self._outputs[0]: result}
        path = nullcontext() if self._fast_path else without_fast_path()
        with torch.inference_mode(), path:
            tensors = [_tensor(inputs[name]) for name in self._inputs]
            if self._is_on_gpu:
                tensors = [tensor.to(self._device) for tensor in tensors]
            outputs = self._network(*tensors)
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        if self._is_on_gpu:
            outputs = [output.cpu() for output in outputs]
        named = zip(self._outputs, outputs, strict=True)
        return {name: _array(output) for name, output in named}


def load_torch(
    folder: Path,
    model: Model,
    variant: Variant,
    *,
    threads: int,
    device: Device = "cpu",
    kernels: KernelTable | None = None,
) -> Runner:
    """Rebuild the network of the variant in `folder` after verifying the hashes of its files.

    The kernels of sparse layers are those of `kernels`, or those of the report card for this
    hardware. If there is none, they are timed now.
    """
    if kernels is None:
        card = variant.report_card(hardware(threads, device).key)
        kernels = None if card is None else card.kernels
    torch.set_num_threads(threads)
    network = _with_kernels(folder, model, variant, device, kernels)
    return_freed_memory()
    return TorchRunner(network, model, threads=threads, device=device)


def _with_kernels(
    folder: Path, model: Model, variant: Variant, device: Device, kernels: KernelTable | None
) -> nn.Module:
    """Return the network of a variant with kernels. Nothing refers to the dense weights then."""
    network, plan, tensors = load_rebuilt(folder, model, variant)
    use = use_gpu if is_gpu(device) else use_kernels
    use(network, sparse_layers(network, plan, tensors), kernels)
    return network


def load_rebuilt(
    folder: Path, model: Model, variant: Variant
) -> tuple[nn.Module, Plan, dict[str, torch.Tensor]]:
    """Return the network of a variant with ordinary layers, its plan, and the tensors of the file.

    Raises `ValueError` if a file is missing or damaged.
    """
    files = artifact.read_all(folder, variant)
    for name in (PLAN, WEIGHTS):
        if name not in files:
            raise ValueError(f"{folder}: the variant lists no {name}")
    plan = Plan.model_validate_json(files[PLAN])
    tensors = safetensors.torch.load(files[WEIGHTS])
    return restore(load_network(model.factory), plan, tensors), plan, tensors


def measure_torch_kernels(
    folder: Path, model: Model, variant: Variant, *, threads: int, device: Device = "cpu"
) -> KernelTable:
    """Time the kernels of the sparse layers of the variant in `folder` on this machine.

    The table also lists the dense layers, with the reason.
    """
    network, plan, tensors = load_rebuilt(folder, model, variant)
    torch.set_num_threads(threads)
    layers = sparse_layers(network, plan, tensors)
    table = measure_layers(layers, require_cuda()) if is_gpu(device) else measure_kernels(layers)
    return describe_layers(network, table)


def _find_chain(
    network: nn.Module, interface: Model | Interface, threads: int
) -> ChainedNetwork | None:
    specs = (*interface.inputs, *interface.outputs)
    if len(specs) != 2 or any(spec.datatype != "FP32" for spec in specs):
        return None
    return find_chain(network, interface.inputs[0].shape[1:], threads=threads)


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

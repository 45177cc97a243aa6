"""The time of each operator in one call, as reported by the runtime.

onnxruntime: its profile of a session ─▶ nodes ─▶ layers by `explain.graph`
torch:       a timer around every module without submodules ─▶ layers by name
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import onnxruntime
import torch
from torch import nn

from variants.analysis.explain.graph import INTEGER_PRODUCTS, Graph, optimized_layers
from variants.catalog.hardware import hardware
from variants.model.dataset import Samples
from variants.model.forward import outputs, tensors
from variants.runtime.onnx import session_options
from variants.runtime.sparse.linear import SparseLinear

CALLS: Final = 40
WARM_UP_CALLS: Final = 8
_KERNEL: Final = "_kernel_time"


@dataclass(frozen=True)
class Operator:
    """An operator of a model."""

    name: str
    kind: str
    """The runtime's name of the operation: `Gemm`, `QLinearConv`, `Linear`."""
    layer: str | None
    """The layer that it belongs to; None for an operator outside layers, such as an addition."""
    arithmetic: str
    """The type of its multiplications: `float32`, `int8`, `float16`."""
    seconds: float
    """Median time over the calls."""


def profile_onnx(
    model: bytes, batch: Samples, *, threads: int, calls: int = CALLS
) -> list[Operator]:
    """Profile a model in a new session. The profile has a resolution of 1 microsecond."""
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads, hardware(1).flags)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(WARM_UP_CALLS + calls):
            session.run(None, dict(batch))
        events = json.loads(Path(session.end_profiling()).read_bytes())
        layers = optimized_layers(Graph(model), Path(options.optimized_model_filepath).read_bytes())
    seconds: dict[str, list[float]] = defaultdict(list)
    details: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            name = event["name"].removesuffix(_KERNEL)
            seconds[name].append(event["dur"] * 1e-6)
            details[name] = event["args"]
    return [
        Operator(
            name=name,
            kind=details[name]["op_name"],
            layer=layers.get(name),
            arithmetic=_arithmetic(details[name]),
            seconds=median(durations[-calls:]),
        )
        for name, durations in seconds.items()
    ]


def profile_torch(network: nn.Module, batch: Samples, *, calls: int = CALLS) -> list[Operator]:
    """Time each module without submodules, with torch's present number of threads."""
    leaves = {name: m for name, m in network.named_modules() if not [*m.children()]}
    seconds: dict[str, list[float]] = {name: [] for name in leaves}
    spent: dict[str, float] = {}
    hooks = []
    for name, module in leaves.items():
        start, stop = _stopwatch(spent, name)
        hooks.append(module.register_forward_pre_hook(start))
        hooks.append(module.register_forward_hook(stop))
    inputs = tensors(batch)
    try:
        with torch.inference_mode():
            for _ in range(WARM_UP_CALLS + calls):
                spent.clear()
                outputs(network, inputs)
                for name, total in spent.items():
                    seconds[name].append(total)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        Operator(
            name=name,
            kind=type(module).__name__,
            layer=name if _has_weights(module) else None,
            arithmetic=_type(module),
            seconds=median(seconds[name][-calls:]),
        )
        for name, module in leaves.items()
        if seconds[name]
    ]


def _stopwatch(
    spent: dict[str, float], name: str
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return hooks that add up the time of a module, which a call may use more than once."""
    started = [0.0]

    def start(*_: object) -> None:
        started[0] = time.perf_counter()

    def stop(*_: object) -> None:
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - started[0]

    return start, stop


def _has_weights(module: nn.Module) -> bool:
    return bool([*module.parameters(), *module.buffers()])


def _type(module: nn.Module) -> str:
    if isinstance(module, SparseLinear):
        return module.arithmetic
    parameter = next(module.parameters(), next(module.buffers(), None))
    kind = torch.float32 if parameter is None else parameter.dtype
    return str(kind).removeprefix("torch.")


def _arithmetic(details: dict[str, Any]) -> str:
    if details["op_name"] in INTEGER_PRODUCTS:
        return "int8"
    first: dict[str, Any] = next(iter(details.get("input_type_shape", ())), {})
    kind = next(iter(first), "float")
    return "float32" if kind == "float" else str(kind)

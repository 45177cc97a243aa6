"""Chooses how a variant with packed layers is served: by sparse kernels or as an ONNX graph.

    state ─▶ network with kernels (torch) ─┐
          ─▶ ONNX graph ───────────────────┴─▶ timed in turns, batch 1 to 64 ─▶ the faster one

The ONNX graph is that of the same masked network, with its zeros. After dynamic `int8` it is the
INT8 graph, and the kernels are those of packed INT8 weights.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from statistics import geometric_mean
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from variants.catalog.device import Device, is_gpu
from variants.catalog.kernels import KernelTable
from variants.compression.export import TOLERANCE, export_state, relative_difference
from variants.compression.sparsity.layers import computes_linear
from variants.model.dataset import Samples, count, rows
from variants.model.forward import outputs, tensors
from variants.model.state import CompressionState, unpacked_notes
from variants.runtime.gpu.device import require_cuda
from variants.runtime.gpu.dispatch import measure_layers
from variants.runtime.gpu.network import use_gpu
from variants.runtime.kernels.packing import MAX_INPUTS_INT8
from variants.runtime.onnx import OnnxRunner
from variants.runtime.plan import make_plan
from variants.runtime.rounds import choose_clock, run_rounds, typical_s
from variants.runtime.runner import Runner
from variants.runtime.sparse.dispatch import BATCH_SIZES, measure_kernels
from variants.runtime.sparse.network import sparse_layers, use_kernels
from variants.runtime.torch import TorchRunner

SECONDS_PER_BATCH_SIZE: Final = 0.15
"""Time to spend on each batch size, if more than `_MIN_ROUNDS` fit."""

_MIN_ROUNDS: Final = 2
_MAX_ROUNDS: Final = 30
_OBSERVED_SAMPLES: Final = 2
_CHECKED_SAMPLES: Final = 16
_CONVS: Final = nn.Conv1d | nn.Conv2d | nn.Conv3d


def choose_runtime(
    state: CompressionState, samples: Samples, *, threads: int, device: Device = "cpu"
) -> CompressionState:
    """Return the state that a device serves faster: with packed layers, or with the ONNX graph.

    `samples` are not test samples. With `packing` set to `always` or `never`, nothing is timed.
    States without packed layers are left as they are, and so are graphs other than those of
    dynamic INT8. The notes state the choice, and the layers that could not be packed.

    Raises `ValueError` if the kernels and the network disagree on the outputs for the samples.
    """
    if dense := (*_convolution_notes(state), *_subclass_notes(state)):
        state = _with_notes(state, *dense)
    if not state.packed or (state.graph is not None and not state.quantized):
        return state
    if state.packing == "never":
        return _as_graph(state, unpacked_notes(state))
    observed = observe_rows(state.network, state.packed, samples)
    notes = tuple(
        f"layer {name} stays dense: the network reads its weight instead of calling it"
        for name in sorted(state.packed - observed.keys())
    )
    packed = replace(
        state,
        packed=frozenset(observed),
        graph=None,
        conversion=None,
        notes=(*state.notes, *notes, *_int8_notes(state, observed)),
    )
    if not observed:
        return _as_graph(state, notes)
    threads_before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        runner, table = _with_kernels(packed, observed, threads)
        _require_equal(packed, _exact_runner(packed, observed, threads, runner), samples)
        if is_gpu(device):  # the layers were compared above, and each product is when it is loaded
            runner, table = _on_gpu(packed, observed, threads, device)
        if state.packing == "always":
            return _with_notes(packed, _describe(table))
        try:
            graph = state.graph or export_state(state, samples).SerializeToString()
        except ValueError as error:
            return _with_notes(packed, _describe(table), f"there is no ONNX graph: {error}")
        graph_runner = OnnxRunner(graph, threads=threads, device=device)
        clock = time.perf_counter if is_gpu(device) else choose_clock(threads)
        speedup = _speedup(graph_runner, runner, samples, clock)
    finally:
        torch.set_num_threads(threads_before)
    ratio = f"{speedup:.2f} times as fast as its ONNX graph over batch sizes 1 to {BATCH_SIZES[-1]}"
    if speedup >= 1:
        return _with_notes(packed, f"{_describe(table)}, {ratio}")
    return _as_graph(state, (*notes, f"served as an ONNX graph: {_describe(table)}, {ratio}"))


def observe_rows(network: nn.Module, names: Collection[str], samples: Samples) -> dict[str, int]:
    """Return the rows per sample of the Linear layers with these names, for the first samples.

    Layers that the network does not call are left out: some modules read the weights of their
    layers.
    """
    few = rows(samples, np.arange(_OBSERVED_SAMPLES) % count(samples))
    observed: dict[str, int] = {}

    def observer(name: str) -> Callable[..., None]:
        def observe(
            _: nn.Module, arguments: tuple[Tensor, ...], named: Mapping[str, Tensor]
        ) -> None:
            features = arguments[0] if arguments else named["input"]
            number = features.numel() // max(1, features.shape[-1]) // _OBSERVED_SAMPLES
            observed[name] = max(1, number)

        return observe

    hooks = [
        network.get_submodule(name).register_forward_pre_hook(observer(name), with_kwargs=True)
        for name in sorted(names)
    ]
    try:
        with torch.inference_mode():
            network.eval()(*tensors(few))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: observed[name] for name in names if name in observed}


def _convolution_notes(state: CompressionState) -> tuple[str, ...]:
    """Return a note on the convolutions with masked weights."""
    modules = dict(state.network.named_modules())
    owners = [parameter.rpartition(".")[0] for parameter in state.masks]
    names = [name for name in owners if isinstance(modules.get(name), _CONVS)]
    if not names:
        return ()
    return (
        "convolutions with masked weights are computed with their zeros, since they have no sparse "
        f"kernel: {', '.join(names)}",
    )


def _subclass_notes(state: CompressionState) -> tuple[str, ...]:
    """Return notes on the masked Linear layers that compute something else than a Linear layer."""
    modules = dict(state.network.named_modules())
    owners = [parameter.rpartition(".")[0] for parameter in state.masks]
    return tuple(
        f"layer {name} stays dense: {type(modules[name]).__name__} has a forward of its own"
        for name in owners
        if isinstance(modules.get(name), nn.Linear) and not computes_linear(modules[name])
    )


def _int8_notes(state: CompressionState, packed: Collection[str]) -> tuple[str, ...]:
    """Return a note on the layers of a packed INT8 model, which differ from those of its graph."""
    if not state.quantized:
        return ()
    linear = [
        name for name, m in state.network.named_modules() if isinstance(m, nn.Linear | _CONVS)
    ]
    chosen = [name for name in linear if name in state.quantized and name in packed]
    widths = {name: state.network.get_parameter(f"{name}.weight").shape[1] for name in chosen}
    quantized = [name for name in chosen if widths[name] <= MAX_INPUTS_INT8]
    others = [name for name in linear if name not in quantized]
    return (
        *(
            f"layer {name} stays in FP32: 8-bit products of {width:,} inputs may overflow 32 bits"
            for name, width in widths.items()
            if name not in quantized
        ),
        f"packed 2:4 layers with weights of 8 bits: {', '.join(quantized)}; in FP32: "
        f"{', '.join(others) or 'none'}",
    )


def _with_kernels(
    state: CompressionState, observed: Mapping[str, int], threads: int, **effort: Any
) -> tuple[Runner, KernelTable]:
    """Return a runner of the packed layers; `effort` are arguments of `measure_kernels`."""
    plan, stored = make_plan(state.network, state.packed, quantized=state.quantized, rows=observed)
    network = copy.deepcopy(state.network).eval()
    layers = sparse_layers(network, plan, stored)
    table = use_kernels(network, layers, measure_kernels(layers, **effort))
    return TorchRunner(network, state.interface, threads=threads), table


def _on_gpu(
    state: CompressionState, observed: Mapping[str, int], threads: int, device: Device
) -> tuple[Runner, KernelTable]:
    """Return a runner of the packed layers on the GPU."""
    plan, stored = make_plan(state.network, state.packed, quantized=state.quantized, rows=observed)
    network = copy.deepcopy(state.network).eval()
    layers = sparse_layers(network, plan, stored)
    table = use_gpu(network, layers, measure_layers(layers, require_cuda()))
    return TorchRunner(network, state.interface, threads=threads, device=device), table


def _exact_runner(
    state: CompressionState, observed: Mapping[str, int], threads: int, runner: Runner
) -> Runner:
    """Return a runner of the same layers in FP32, which differs from the network by rounding only.

    The features of INT8 kernels are rounded, which hides a layer that is replaced wrongly.
    """
    if not state.quantized:
        return runner
    exact = replace(state, quantized=frozenset())
    return _with_kernels(exact, observed, threads, seconds=0, batch_sizes=(1,))[0]


def _require_equal(state: CompressionState, runner: Runner, samples: Samples) -> None:
    checked = rows(samples, slice(0, _CHECKED_SAMPLES))
    with torch.inference_mode():
        expected = outputs(state.network.eval(), tensors(checked))
    actual = runner(checked)
    for spec, tensor in zip(state.interface.outputs, expected, strict=True):
        difference = relative_difference(actual[spec.name], tensor.float().numpy())
        if not difference <= TOLERANCE:  # NaN too
            raise ValueError(
                f"with sparse kernels, {spec.name!r} differs by {difference:.1e} of its size: the "
                "network uses its layers in a way that its modules do not show; set packing: never"
            )


def _speedup(graph: Runner, packed: Runner, samples: Samples, clock: Callable[[], float]) -> float:
    """Return the geometric mean over the batch sizes of the graph's time over the packed one's."""
    ratios = []
    for size in BATCH_SIZES:
        batch = rows(samples, np.arange(size) % count(samples))
        seconds = _time_in_turns((graph, packed), batch, clock)
        ratios.append(seconds[0] / seconds[1])
    return geometric_mean(ratios)


def _time_in_turns(
    runners: tuple[Runner, Runner], batch: Mapping[str, Any], clock: Callable[[], float]
) -> tuple[float, float]:
    """Return the median seconds of both runners, after a first call that is not counted."""
    timings: tuple[list[float], list[float]] = ([], [])

    def run() -> None:
        for runner, calls in zip(runners, timings, strict=True):
            before = clock()
            runner(batch)
            calls.append(clock() - before)

    run_rounds(run, SECONDS_PER_BATCH_SIZE, least=_MIN_ROUNDS, most=_MAX_ROUNDS)
    first, second = (typical_s(calls) for calls in timings)
    return first, second


def _as_graph(state: CompressionState, notes: tuple[str, ...]) -> CompressionState:
    return replace(state, packed=frozenset(), quantized=frozenset(), notes=(*state.notes, *notes))


def _with_notes(state: CompressionState, *notes: str) -> CompressionState:
    return replace(state, notes=(*state.notes, *notes))


def _describe(table: KernelTable) -> str:
    if table.missing:
        return f"packed layers are computed densely, since {table.missing}"
    return f"packed layers are computed by sparse kernels ({table.instruction_set})"

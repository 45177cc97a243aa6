"""Chooses the kernel of each sparse layer by number of rows, by timing them on this machine.

    layers ─▶ kernels of each ─▶ timed in rounds over all layers ─▶ KernelTable

A round calls every kernel of every layer once. Weights are thus read from the same level of the
memory hierarchy as in a network, and not from the caches that repeated calls would fill. Layers of
one kind, shape and share of zeros are timed once.

Multiply-accumulates bound the work of a call, and all layers share them. Time is checked only
between batch sizes: those of `ALWAYS` are timed in any case, with at least `MIN_ROUNDS` rounds and
one that is not counted. At load this is at most `2 * (1 + MIN_ROUNDS) * LOAD_MACS` for each kernel
of a layer, plus one more batch size of the same bound, begun when some of `LOAD_S` was left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import geometric_mean
from typing import Final, TypeAlias

import torch
from torch import Tensor

from variants.catalog.kernels import (
    DENSE,
    PACKED_DENSE,
    KernelChoice,
    KernelTable,
    LayerKernels,
)
from variants.runtime.kernels import library
from variants.runtime.kernels.operators import Kernel
from variants.runtime.rounds import choose_clock, run_rounds, typical_s
from variants.runtime.sparse.forms import SparseKind, zero_share
from variants.runtime.sparse.linear import LayerWeights

BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
"""Each layer is timed at these multiples of its rows per sample."""
DENSE_GAIN: Final = 1.05
"""Dense weights stay in memory only if they are this much faster at some batch size."""
MEASURE_S: Final = 2.0
"""Time to spend on all layers of a network when a variant is measured."""
LOAD_BATCH_SIZES: Final = (1, 8, 32)
"""The batch sizes that are timed when a variant is loaded."""
ALWAYS: Final = (1, 32)
"""These batch sizes are timed first, whatever time they take."""
LOAD_S: Final = 0.1
"""Time after which no further batch size is begun, when a variant is loaded that was not measured
on this hardware."""
MAX_ROUNDS: Final = 15
"""Timed calls of each kernel at each number of rows."""
MIN_ROUNDS: Final = 2
"""Rounds even if they take longer than planned."""
MAX_MACS: Final = 500_000_000
"""Numbers of rows with more multiply-accumulates in a dense layer than this are not timed."""
MEASURE_MACS: Final = 5_000_000_000
"""Dense multiply-accumulates of all layers in a call of each, when a variant is measured."""
LOAD_MACS: Final = 1_000_000_000
"""As `MEASURE_MACS`, when a variant is loaded."""

_ZERO_STEPS: Final = 20
"""Layers whose shares of zeros differ by less than a step of this many count as alike."""

Times: TypeAlias = Mapping[str, float]
"""Median seconds of each kernel at one number of rows."""
_Class: TypeAlias = tuple[SparseKind, tuple[int, ...], int, int]


@dataclass(frozen=True, eq=False)
class DispatchedLayer:
    """A layer to choose kernels for."""

    weights: LayerWeights
    rows_per_sample: int = 1

    @cached_property
    def likeness(self) -> _Class:
        """Equal for layers that take the same time."""
        zeros = round(zero_share(self.weights.weight) * _ZERO_STEPS)
        return self.weights.kind, tuple(self.weights.weight.shape), zeros, self.rows_per_sample

    def timed_rows(self, batch_size: int, macs: int) -> int | None:
        """Return the rows to time at a batch size, with at most `macs` multiply-accumulates.

        One sample is timed with fewer rows if they are too many. Larger batches then return None.
        """
        rows = batch_size * self.rows_per_sample
        largest = max(1, macs // max(1, self.weights.weight.numel()))
        if batch_size == 1:
            return min(rows, largest)
        return rows if rows <= largest else None


def available_instruction_set() -> str:
    """Return the instruction set of the compiled kernels, or "" if there are none."""
    return library.instruction_set() if library.is_compiled() else ""


def measure_kernels(
    layers: Mapping[str, DispatchedLayer],
    *,
    seconds: float = MEASURE_S,
    macs: int = MEASURE_MACS,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> KernelTable:
    """Time the kernels of the layers with torch's present number of threads; choose the fastest.

    After `seconds`, no batch size is begun except those of `ALWAYS`. `macs` are divided among the
    kinds of layers; each is timed up to its share and `MAX_MACS`.

    Without compiled kernels, layers in FP32 are dense, which torch computes faster than the
    operators that stand in for the kernels.
    """
    alike: dict[_Class, DispatchedLayer] = {}
    for layer in layers.values():
        alike.setdefault(layer.likeness, layer)
    share = min(MAX_MACS, macs // max(1, len(alike)))
    measured = _measure(alike, seconds, share, batch_sizes)
    return KernelTable(
        instruction_set=available_instruction_set(),
        missing=library.missing_reason(),
        layers={name: _choose(layer, measured[layer.likeness]) for name, layer in layers.items()},
    )


def _measure(
    layers: Mapping[_Class, DispatchedLayer],
    seconds: float,
    macs: int,
    batch_sizes: Sequence[int],
) -> dict[_Class, dict[int, Times]]:
    """Return by layer and number of rows the median time of each kernel."""
    clock = choose_clock(torch.get_num_threads())
    kernels = {key: _timed_kernels(layer.weights) for key, layer in layers.items()}
    generator = torch.Generator("cpu").manual_seed(0)
    times: dict[_Class, dict[int, Times]] = {key: {} for key in layers}
    started = time.perf_counter()
    with torch.inference_mode():
        for batch_size in sorted(batch_sizes, key=lambda size: (size not in ALWAYS, size)):
            if batch_size not in ALWAYS and time.perf_counter() - started > seconds:
                break
            inputs = {}
            for key, layer in layers.items():
                rows = layer.timed_rows(batch_size, macs)
                if rows is not None:
                    columns = layer.weights.weight.shape[1]
                    inputs[key] = torch.rand(
                        rows, columns, generator=generator, dtype=torch.float32, device="cpu"
                    )
            medians = _time_rounds(layers, kernels, inputs, seconds / len(batch_sizes), clock)
            for key, features in inputs.items():
                times[key][len(features)] = medians[key]
    return {key: dict(sorted(by_rows.items())) for key, by_rows in times.items()}


def _candidates(weights: LayerWeights) -> tuple[str, ...]:
    names = weights.kernel_names
    if library.is_compiled():
        return names
    # The stand-ins of all algorithms are the same.
    return (DENSE,) if DENSE in names else names[:1]


def _timed_kernels(weights: LayerWeights) -> dict[str, Kernel]:
    kernels, _ = weights.kernels(dict.fromkeys((*_candidates(weights), DENSE)))
    return kernels


def _time_rounds(
    layers: Mapping[_Class, DispatchedLayer],
    kernels: Mapping[_Class, Mapping[str, Kernel]],
    inputs: Mapping[_Class, Tensor],
    seconds: float,
    clock: Callable[[], float],
) -> dict[_Class, Times]:
    timings: dict[_Class, dict[str, list[float]]] = {
        key: {name: [] for name in kernels[key]} for key in inputs
    }

    def run() -> None:
        for key, features in inputs.items():
            for name, kernel in kernels[key].items():
                weights = layers[key].weights
                before = clock()
                kernel(features, weights.bias, weights.activation)
                timings[key][name].append(clock() - before)

    run_rounds(run, seconds, least=MIN_ROUNDS, most=MAX_ROUNDS)
    return {
        key: {name: typical_s(calls) for name, calls in by_name.items()}
        for key, by_name in timings.items()
    }


def _choose(layer: DispatchedLayer, times: Mapping[int, Times]) -> LayerKernels:
    """Choose the fastest kernel at each number of rows, and dense ones only if they pay."""
    candidates = _candidates(layer.weights)
    sparse = [name for name in candidates if name not in (DENSE, PACKED_DENSE)]
    dense = [name for name in candidates if name not in sparse]
    allowed = sparse + _dense_that_pays(times, sparse, dense)
    choices = []
    for rows, by_name in times.items():
        kernel = min(allowed, key=by_name.__getitem__)
        choices.append(
            KernelChoice(
                rows=rows,
                kernel=kernel,
                seconds=by_name[kernel],
                dense_s=by_name[DENSE],
            )
        )
    return LayerKernels(
        kind=layer.weights.kind,
        shape=tuple(layer.weights.weight.shape),
        zeros=zero_share(layer.weights.weight),
        rows_per_sample=layer.rows_per_sample,
        choices=tuple(choices),
        reason=_reason(times, sparse, {choice.kernel for choice in choices}),
    )


def _dense_that_pays(times: Mapping[int, Times], sparse: list[str], dense: list[str]) -> list[str]:
    """Return the dense kernel to keep in memory, if one is decisively faster somewhere.

    A second dense copy would gain little, so at most one is kept: that with the larger mean gain.
    """
    gains = {}
    for name in dense:
        ratios = [
            min((by_name[each] for each in sparse), default=float("inf")) / by_name[name]
            for by_name in times.values()
        ]
        if max(ratios) >= DENSE_GAIN:
            gains[name] = geometric_mean(min(max(1.0, ratio), 1e9) for ratio in ratios)
    return [max(gains, key=gains.__getitem__)] if gains else []


def _reason(times: Mapping[int, Times], sparse: list[str], chosen: set[str]) -> str:
    if not library.is_compiled():
        return library.missing_reason()
    if chosen & {*sparse}:
        return ""
    best = max(by_name[DENSE] / by_name[name] for by_name in times.values() for name in sparse)
    return f"the sparse kernels are not faster: at best {best:.2f} times as fast as dense"

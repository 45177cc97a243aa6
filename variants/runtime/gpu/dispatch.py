"""Chooses the product of each sparse layer on a GPU by number of rows, by timing them there.

    layer ─▶ algorithm of cuSPARSELt by rows ─▶ checked ─▶ timed ─▶ choose ─▶ LayerKernels

The sparse product is chosen where it is faster than every dense one, conversions and padding
included, so no layer is slower than its dense twin as served.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Final, TypeAlias

import torch

from variants.catalog.kernels import KernelChoice, KernelTable, LayerKernels
from variants.runtime.gpu.algorithms import AlgorithmCache, AlgorithmKey
from variants.runtime.gpu.device import cusparselt_version, describe_gpu
from variants.runtime.gpu.layer import SPARSE, TOLERANCE, GpuLayer
from variants.runtime.gpu.products import Product
from variants.runtime.sparse.dispatch import BATCH_SIZES, DispatchedLayer
from variants.runtime.sparse.forms import zero_share
from variants.runtime.sparse.linear import LayerWeights

_LOGGER: Final = logging.getLogger(__name__)

SPARSE_GAIN: Final = 1.02
"""How much faster than the fastest dense product the sparse one must be; less is noise."""
ROUNDS: Final = 20
"""Timed calls of each product at each number of rows. A round calls all of them once."""
WARM_UP_ROUNDS: Final = 3
MEASURE_S: Final = 20.0
"""Time after which no further number of rows of a layer is begun; the first one always is."""

Times: TypeAlias = Mapping[str, float]
"""Median seconds of each product at one number of rows."""


def measure_layers(
    layers: Mapping[str, DispatchedLayer],
    device: torch.device,
    *,
    seconds: float = MEASURE_S,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    cache: AlgorithmCache | None = None,
) -> KernelTable:
    """Time the products of the layers on the GPU; layers that are alike are timed once."""
    algorithms = AlgorithmCache() if cache is None else cache
    alike: dict[object, LayerKernels] = {}
    started = time.perf_counter()
    for layer in layers.values():
        if layer.likeness not in alike:
            left_s = seconds - (time.perf_counter() - started)
            alike[layer.likeness] = _measure_layer(layer, device, left_s, batch_sizes, algorithms)
    return KernelTable(
        instruction_set=describe_gpu(),
        layers={name: alike[layer.likeness] for name, layer in layers.items()},
    )


def find_algorithm(layer: GpuLayer, rows: int, cache: AlgorithmCache) -> int:
    """Return the fastest algorithm of cuSPARSELt, from the cache or by a search."""
    out, columns = layer.weights.weight.shape
    key = AlgorithmKey(
        torch.cuda.get_device_name(),
        cusparselt_version(),
        layer.arithmetic,
        out,
        columns,
        layer.padded_rows(rows),
    )
    return cache.find(key, lambda: layer.search(rows))


def check(layer: GpuLayer, rows: int, algorithm: int) -> str:
    """Return why the sparse product must not be used, on random features; "" if it is right."""
    try:
        with torch.no_grad():
            error = layer.error(layer.sparse(rows, algorithm), rows)
    except RuntimeError as failure:
        return _describe(failure)
    tolerance = TOLERANCE[layer.arithmetic]
    if error <= tolerance:
        return ""
    return f"the sparse product differs by {error:.1e} of its size, more than {tolerance:.0e}"


def choose(
    layer: DispatchedLayer,
    times: Mapping[int, Times],
    algorithms: Mapping[int, int],
    reason: str = "",
) -> LayerKernels:
    """Choose by number of rows the fastest product; `SPARSE` if it is faster than all dense ones.

    `times` always has a dense product, and `algorithms` an algorithm wherever `times` has `SPARSE`.
    `reason` is why there is no sparse product at all.
    """
    choices = []
    gains = []
    for rows, by_name in sorted(times.items()):
        dense = min((name for name in by_name if name != SPARSE), key=by_name.__getitem__)
        kernel = dense
        if SPARSE in by_name:
            gains.append(by_name[dense] / by_name[SPARSE])
            kernel = SPARSE if gains[-1] >= SPARSE_GAIN else dense
        choices.append(
            KernelChoice(
                rows=rows,
                kernel=kernel,
                seconds=by_name[kernel],
                dense_s=by_name[dense],
                algorithm=algorithms[rows] if kernel == SPARSE else None,
            )
        )
    if not reason and gains and max(gains) < SPARSE_GAIN:
        reason = f"the sparse product is not faster: at best {max(gains):.2f} times as fast"
    return LayerKernels(
        kind=layer.weights.kind,
        shape=tuple(layer.weights.weight.shape),
        zeros=zero_share(layer.weights.weight),
        rows_per_sample=layer.rows_per_sample,
        choices=tuple(choices),
        reason=reason,
    )


def time_on_gpu(
    calls: Mapping[str, Callable[[], object]], rounds: int = ROUNDS
) -> dict[str, float]:
    """Return the median seconds of each call between events on the GPU, after a warm-up."""
    for _ in range(WARM_UP_ROUNDS):
        for call in calls.values():
            call()
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {n: [] for n in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            before = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            after = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            before.record()
            call()
            after.record()
            events[name].append((before, after))
    torch.cuda.synchronize()
    return {
        name: max(1e-9, median(before.elapsed_time(after) for before, after in pairs) / 1e3)
        for name, pairs in events.items()
    }


def _measure_layer(
    layer: DispatchedLayer,
    device: torch.device,
    seconds: float,
    batch_sizes: Sequence[int],
    cache: AlgorithmCache,
) -> LayerKernels:
    own = GpuLayer.of(layer.weights, device)
    reason = own.dense_reason
    times: dict[int, Times] = {}
    algorithms: dict[int, int] = {}
    dense = {name: own.dense(name) for name in own.dense_names}
    started = time.perf_counter()
    with torch.inference_mode():
        for batch_size in batch_sizes:
            if times and time.perf_counter() - started > seconds:
                break
            rows = batch_size * layer.rows_per_sample
            candidates = dict(dense)
            if not reason:
                try:
                    algorithm = algorithms[rows] = find_algorithm(own, rows, cache)
                    reason = check(own, rows, algorithm)
                except RuntimeError as failure:  # such as a GPU without sparse tensor cores
                    reason = _describe(failure)
            if not reason:
                candidates[SPARSE] = own.sparse(rows, algorithms[rows])
            times[rows] = _time_products(layer.weights, device, rows, candidates)
    if reason and not own.dense_reason:  # a wrong product is not used at any number of rows
        _LOGGER.warning("a %s layer is computed densely: %s", layer.weights.kind, reason)
        times = {
            rows: {name: s for name, s in by_name.items() if name != SPARSE}
            for rows, by_name in times.items()
        }
    return choose(layer, times, algorithms, reason)


def _time_products(
    weights: LayerWeights, device: torch.device, rows: int, products: Mapping[str, Product]
) -> dict[str, float]:
    features = torch.randn(rows, weights.weight.shape[1], device=device)
    bias = None if weights.bias is None else weights.bias.to(device)
    return time_on_gpu(
        {
            name: partial(product, features, bias, weights.activation)
            for name, product in products.items()
        }
    )


def _describe(failure: RuntimeError) -> str:
    return f"cuSPARSELt fails: {' '.join(str(failure).split())}"

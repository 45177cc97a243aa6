"""Products of one Linear layer on a GPU: dense and 2:4, in FP16 and INT8, checked, then timed.

"Alone": operands that are converted and padded already. "As served": the kernels of
`variants.runtime.gpu`, from FP32 to FP32, and the one that the rule chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from loadtests.gpu.deadline import Deadline
from loadtests.trials.grid import Grid
from variants.catalog.kernels import LayerKernels
from variants.runtime.gpu.algorithms import AlgorithmCache
from variants.runtime.gpu.dispatch import find_algorithm, measure_layers, time_on_gpu
from variants.runtime.gpu.layer import TOLERANCE, GpuLayer, relative_error
from variants.runtime.gpu.products import DTYPES
from variants.runtime.gpu.shapes import Arithmetic, padded
from variants.runtime.linear24 import mask24
from variants.runtime.sparse.dispatch import DispatchedLayer
from variants.runtime.sparse.forms import FORMS, SparseKind, quantize
from variants.runtime.sparse.linear import LayerWeights

SHAPES: Final = ("2048x784", "2048x2048", "384x1536", "4096x4096", "8192x8192")
"""`out` x `in`: the demo's hidden layers, one of MiniLM, and two of large models."""
ROWS: Final = (1, 8, 64, 512, 4096)
SERVED_BATCHES: Final = (1, 8, 64, 512)
_LEAST_ROWS: Final = 32
"""All products of the table "alone" get the same padded features, of a multiple of this."""


class Alone(NamedTuple):
    """Seconds and relative errors of the products by name, and the algorithm that was found."""

    shape: str
    rows: int
    seconds: dict[str, float]
    errors: dict[str, float]
    algorithms: dict[Arithmetic, int]


def random_layer(shape: str, kind: SparseKind = "linear-2:4") -> LayerWeights:
    """Return a layer of random weights, 2:4 sparse, on the CPU; `shape` is `out`x`in`."""
    out, columns = (int(size) for size in shape.split("x"))
    weight = torch.randn(out, columns, generator=torch.Generator().manual_seed(0))
    weight *= mask24(weight)
    if kind == "linear-2:4-int8":
        codes, scales = quantize(weight)
        weight = codes.float() * scales[:, None]
    return LayerWeights(kind, weight, None, "none", FORMS[kind].store(weight))


def measure_alone(deadline: Deadline, cache: AlgorithmCache) -> Iterator[Alone]:
    """Check and time the products alone for every shape and number of rows."""
    device = torch.device("cuda")
    for shape in SHAPES:
        if not deadline.allows(f"products alone, {shape}"):
            continue
        weights = random_layer(shape)
        half = GpuLayer(weights, device, "float16")
        int8 = GpuLayer(_codes_only(weights), device, "int8")
        for rows in ROWS:
            if deadline.allows(f"products alone, {shape}, {rows} rows"):
                yield _alone(shape, rows, half, int8, cache)


def measure_served(deadline: Deadline, cache: AlgorithmCache) -> Iterator[tuple[str, LayerKernels]]:
    """Time the layers as served, in BF16 and INT8."""
    for shape in SHAPES:
        for kind in ("linear-2:4", "linear-2:4-int8"):
            if deadline.allows(f"{kind} as served, {shape}"):
                layers = {shape: DispatchedLayer(random_layer(shape, kind))}
                table = measure_layers(
                    layers, torch.device("cuda"), batch_sizes=SERVED_BATCHES, cache=cache
                )
                yield shape, table.layers[shape]


def wrong(results: list[Alone]) -> list[str]:
    """Return a line for each product whose error exceeds its tolerance."""
    return [
        f"{name} of {each.shape} with {each.rows} rows differs by {error:.1e} of its size"
        for each in results
        for name, error in each.errors.items()
        if not error <= TOLERANCE["int8" if "INT8" in name else "float16"]
    ]


def alone_grid(results: list[Alone]) -> Grid:
    """Return the table of the products alone, in microseconds."""
    names = ("dense FP16", "2:4 FP16, algorithm 0", "2:4 FP16", "dense INT8", "2:4 INT8")
    return Grid(
        "Products alone, µs",
        ("weight", "rows", *names, "2:4 over dense, FP16", "INT8", "algorithms"),
        [
            (
                each.shape,
                f"{each.rows}",
                *(_us(each.seconds.get(name)) for name in names),
                *(
                    _ratio(each.seconds.get(f"dense {bits}"), each.seconds.get(f"2:4 {bits}"))
                    for bits in ("FP16", "INT8")
                ),
                ", ".join(f"{number}" for number in each.algorithms.values()),
            )
            for each in results
        ],
        "Medians between events. One weight in turn with the others, which the L2 cache may hold.",
    )


def served_grid(results: list[tuple[str, LayerKernels]]) -> Grid:
    """Return the table of the layers as served."""
    return Grid(
        "Layers as served: FP32 in, FP32 out",
        ("weight", "stored as", "rows", "kernel", "µs", "over the fastest dense", "reason"),
        [
            (
                shape,
                layer.kind,
                f"{choice.rows}",
                choice.kernel,
                _us(choice.seconds),
                f"{choice.speedup:.2f}",
                layer.reason,
            )
            for shape, layer in results
            for choice in layer.choices
        ],
    )


def _codes_only(weights: LayerWeights) -> LayerWeights:
    """Return the layer in INT8 with scales of 1, so that its weights are the codes."""
    stored = FORMS["linear-2:4-int8"].store(weights.weight)
    codes, scales = quantize(weights.weight)
    unscaled = {**stored, "scales": torch.ones_like(scales)}
    return LayerWeights("linear-2:4-int8", codes.float(), None, "none", unscaled)


def _alone(shape: str, rows: int, half: GpuLayer, int8: GpuLayer, cache: AlgorithmCache) -> Alone:
    columns = half.weights.weight.shape[1]
    features = torch.randn(padded(rows, _LEAST_ROWS), columns, device=half.device)
    result = Alone(shape, rows, {}, {}, {})
    if not half.dense_reason:
        algorithm = result.algorithms["float16"] = find_algorithm(half, len(features), cache)
        x, weight = features.half(), half.weights.weight.to(half.device).half()
        calls: dict[str, Callable[[], Tensor]] = {
            "dense FP16": partial(F.linear, x, weight),
            "2:4 FP16, algorithm 0": partial(_sparse, half.compressed, x, 0),
            "2:4 FP16": partial(_sparse, half.compressed, x, algorithm),
        }
        _check_and_time(result, calls, F.linear(x.double(), weight.double()))
    if not int8.dense_reason:
        algorithm = result.algorithms["int8"] = find_algorithm(int8, len(features), cache)
        x8 = (32 * features).clamp(-127, 127).to(torch.int8)
        weight8 = int8.weights.weight.to(int8.device).to(torch.int8)
        calls = {
            "dense INT8": partial(torch._int_mm, x8, weight8.t()),
            "2:4 INT8": partial(_sparse, int8.compressed, x8, algorithm),
        }
        _check_and_time(result, calls, F.linear(x8.double(), weight8.double()))
    return result


def _check_and_time(
    result: Alone, calls: Mapping[str, Callable[[], Tensor]], expected: Tensor
) -> None:
    result.errors.update({name: relative_error(call(), expected) for name, call in calls.items()})
    result.seconds.update(time_on_gpu(calls))


def _sparse(compressed: Tensor, features: Tensor, algorithm: int) -> Tensor:
    return torch._cslt_sparse_mm(
        compressed,
        features.t(),
        out_dtype=torch.int32 if features.dtype == DTYPES["int8"] else None,
        transpose_result=True,
        alg_id=algorithm,
    )


def _us(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:,.1f}"


def _ratio(dense: float | None, sparse: float | None) -> str:
    return "-" if dense is None or sparse is None else f"{dense / sparse:.2f}"

"""Compares sparse weight formats with dense: size and speed of one Linear layer.

    python -m loadtests.benchmarks.formats [--markdown]

Zeros are placed at random: size and time depend only on their number and pattern. Every format
alternates with the dense weight and is compared with the faster of torch and onnxruntime. Formats
that torch cannot compute with are listed with the reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import click
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from loadtests.benchmarks import options
from loadtests.benchmarks.machine import describe_machine
from loadtests.trials.grid import Grid, show
from variants.catalog.catalog import BatchLatency, Interval
from variants.measurement.profiling import profile
from variants.runtime.linear24 import mask24, pack, unpack
from variants.runtime.onnx import OnnxRunner

SHAPES: Final = ((2048, 784), (3072, 768))
"""Shapes of the weights, `[out, in]`."""
SPARSITIES: Final = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Shares of zeros."""
BATCHES: Final = (1, 64)
"""Batch sizes that are measured."""
BLOCK: Final = 16
"""Number of rows, and of columns, in each block of a block-sparse weight."""

DENSE_TORCH: Final = "dense, torch"
DENSE_ONNX: Final = "dense, onnxruntime"

Product: TypeAlias = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""Multiplies samples by a weight: FP32 `[n, in]` to `[n, out]`."""


@dataclass(frozen=True, eq=False)
class SparseWeight:
    """A weight with zeros in a named pattern."""

    name: str
    weight: Tensor
    """FP32 `[out, in]`"""


@dataclass(frozen=True, eq=False)
class WeightFormat:
    """A weight in one storage format, and how to compute with it."""

    size_bytes: int
    """Size of everything that must be stored, values and indices."""
    load: Callable[[], Product]
    """Creates a new copy, because its position in memory affects the speed."""


def sparse_weights(out: int, inputs: int) -> list[SparseWeight]:
    """Return a weight `[out, inputs]` with unstructured zeros, blocks of zeros, and 2:4 zeros."""
    weight = torch.randn(out, inputs, generator=torch.Generator().manual_seed(0))
    blocks = torch.Size([out // BLOCK, inputs // BLOCK])
    weights = [
        SparseWeight(f"unstructured {share:.0%}", weight * _random_mask(weight.shape, share))
        for share in SPARSITIES
    ]
    for share in SPARSITIES:
        mask = _random_mask(blocks, share).repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        weights.append(SparseWeight(f"blocks of {BLOCK} x {BLOCK}, {share:.0%}", weight * mask))
    weights.append(SparseWeight("2:4", weight * mask24(weight)))
    return weights


def weight_formats(weight: Tensor) -> dict[str, WeightFormat]:
    """Return every format that can store a weight `[out, in]`, both multiples of `BLOCK`.

    2:4 formats are missing if more than 2 of 4 values are nonzero. Indices are INT32, which is
    half the size of torch's default INT64 and faster.
    """
    dense = 4 * weight.numel()
    by_name = {
        DENSE_TORCH: WeightFormat(dense, lambda: _dense(torch.randn_like(weight))),
        DENSE_ONNX: WeightFormat(dense, lambda: _onnx(torch.randn_like(weight))),
        "dense with mask, torch": WeightFormat(dense, lambda: _dense(weight.clone())),
        "dense with mask, onnxruntime": WeightFormat(dense, lambda: _onnx(weight)),
        "CSR": _sparse(lambda: _csr(weight)),
        "CSC": _sparse(lambda: _csc(weight)),
    }
    for block in ((4, 4), (BLOCK, BLOCK), (1, BLOCK)):
        by_name[f"BSR {block[0]} x {block[1]}"] = _sparse(partial(_bsr, weight, block))
    if ((weight.reshape(len(weight), -1, 4) != 0).sum(-1) <= 2).all():
        values, indices = pack(weight)
        by_name["packed 2:4, unpacked at load"] = WeightFormat(
            values.nbytes + indices.nbytes, lambda: _packed(values, indices)
        )
        by_name["torch semi-structured 2:4"] = WeightFormat(
            values.nbytes + len(weight) * weight.shape[1] // 8,
            lambda: _product(torch.sparse.to_sparse_semi_structured(weight.clone())),
        )
    return by_name


def supported_formats(
    by_name: Mapping[str, WeightFormat], inputs: int
) -> tuple[dict[str, WeightFormat], list[str]]:
    """Return the formats that this build of torch can compute with, and its errors for others."""
    supported, errors = {}, []
    samples = np.zeros((2, inputs), np.float32)
    for name, weight_format in by_name.items():
        try:
            weight_format.load()(samples)
        except RuntimeError as error:
            errors.append(f"{name} is not supported by torch here: {_first_line(error)}")
        else:
            supported[name] = weight_format
    return supported, errors


def measure(
    by_name: Mapping[str, WeightFormat], inputs: int, seconds: float
) -> dict[str, tuple[BatchLatency, ...]]:
    """Time the formats alternately at every batch size; speedups are over the faster dense.

    Each point takes about `seconds`.
    """
    samples = np.random.default_rng(0).standard_normal((max(BATCHES), inputs), dtype=np.float32)

    def loader(
        weight_format: WeightFormat,
    ) -> Callable[[], Callable[[Mapping[str, Any]], dict[str, Any]]]:
        def load() -> Callable[[Mapping[str, Any]], dict[str, Any]]:
            product = weight_format.load()
            return lambda arrays: {"y": product(arrays["x"])}

        return load

    return profile(
        {name: loader(weight_format) for name, weight_format in by_name.items()},
        {"x": samples},
        dense={"torch": DENSE_TORCH, "onnx": DENSE_ONNX},
        seconds_per_point=seconds,
        batch_sizes=BATCHES,
    )


def rows(
    pattern: str,
    by_name: Mapping[str, WeightFormat],
    latencies: Mapping[str, Sequence[BatchLatency]],
) -> list[tuple[str, ...]]:
    """Return the rows of the table for one pattern."""
    dense_bytes = by_name[DENSE_TORCH].size_bytes
    lines = []
    for name, weight_format in by_name.items():
        times = [
            text
            for point in latencies[name]
            for text in (f"{point.p50_s * 1e6:,.0f}", _speedup(point.speedup))
        ]
        size_bytes = weight_format.size_bytes
        size = (f"{size_bytes / 1e3:,.0f}", f"{size_bytes / dense_bytes:.1%}")
        lines.append((pattern, name, *size, *times))
    return lines


def _speedup(speedup: Interval) -> str:
    return f"{speedup.value:.2f} ({speedup.low:.2f} to {speedup.high:.2f})"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")


def _random_mask(shape: torch.Size, zeros: float) -> Tensor:
    """Return a random BOOL mask of a shape; exactly `round(zeros * size)` values are False."""
    count = shape.numel()
    mask = torch.ones(count, dtype=torch.bool)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    mask[order[: round(zeros * count)]] = False
    return mask.reshape(shape)


def _dense(weight: Tensor) -> Product:
    return lambda samples: F.linear(torch.from_numpy(samples), weight).numpy()


def _onnx(weight: Tensor) -> Product:
    out, inputs = weight.shape
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", out])],
        [numpy_helper.from_array(weight.numpy(), "w")],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    run = OnnxRunner(model.SerializeToString(), threads=torch.get_num_threads())
    return lambda samples: run({"x": samples})["y"]


def _packed(values: Tensor, indices: Tensor) -> Product:
    return _dense(unpack(values.clone(), indices.clone()))


def _sparse(convert: Callable[[], Tensor]) -> WeightFormat:
    weight = convert()
    indices: list[Tensor]
    match weight.layout:
        case torch.sparse_csc:
            indices = [weight.ccol_indices(), weight.row_indices()]
        case _:
            indices = [weight.crow_indices(), weight.col_indices()]
    size_bytes = weight.values().nbytes + sum(tensor.nbytes for tensor in indices)
    return WeightFormat(size_bytes, lambda: _product(convert()))


def _product(weight: Tensor) -> Product:
    """Return a product that multiplies from the left, several times faster than `F.linear`.

    A single sample is multiplied as a vector, except by blocks, where a matrix is faster.
    """
    is_flat = weight.layout in (torch.sparse_csr, torch.sparse_csc)

    def product(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        samples = torch.from_numpy(array)
        if is_flat and len(samples) == 1:
            return (weight @ samples[0])[None].numpy()
        return (weight @ samples.T).T.contiguous().numpy()

    return product


def _csr(weight: Tensor) -> Tensor:
    sparse = weight.to_sparse_csr()
    indices = sparse.crow_indices().int(), sparse.col_indices().int()
    return torch.sparse_csr_tensor(*indices, sparse.values(), sparse.shape)


def _csc(weight: Tensor) -> Tensor:
    sparse = weight.to_sparse_csc()
    indices = sparse.ccol_indices().int(), sparse.row_indices().int()
    return torch.sparse_csc_tensor(*indices, sparse.values(), sparse.shape)


def _bsr(weight: Tensor, block: tuple[int, int]) -> Tensor:
    sparse = weight.to_sparse_bsr(block)
    indices = sparse.crow_indices().int(), sparse.col_indices().int()
    return torch.sparse_bsr_tensor(*indices, sparse.values(), sparse.shape)


@click.command()
@options.seconds(0.5)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of torch and onnxruntime.",
)
@options.markdown
def main(seconds: float, threads: int, as_markdown: bool) -> None:
    """Measure one Linear layer in every format at several sparsities."""
    torch.set_num_threads(threads)
    # torch warns once per layout that sparse tensors are a beta feature.
    warnings.filterwarnings("ignore", message="Sparse")
    before = describe_machine()
    columns = ["zeros", "format", "kB", "size vs dense"]
    for batch in BATCHES:
        columns += [f"µs, batch {batch}", f"speedup, batch {batch}"]
    grids = []
    with Progress(transient=True) as progress:
        for out, inputs in SHAPES:
            lines, errors = [], dict[str, None]()
            weights = sparse_weights(out, inputs)
            for sparse in progress.track(weights, description=f"{out} x {inputs}"):
                supported, unsupported = supported_formats(weight_formats(sparse.weight), inputs)
                errors |= dict.fromkeys(unsupported)
                lines += rows(sparse.name, supported, measure(supported, inputs, seconds))
            note = (
                "Medians; speedup over the faster dense format, with 95 % intervals. Sizes are "
                f"stored bytes; indices are INT32. {threads} thread(s); {before} before.\n\n"
                f"{'; '.join(errors)}."
            )
            grids.append(Grid(f"Linear {out} x {inputs}, FP32", columns, lines, note))
    show(grids, Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    main()

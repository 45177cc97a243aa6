"""Compares the kernels for sparse weights with dense ones: the time of one Linear layer.

    python -m loadtests.benchmarks.kernels [--shape 2048x784] [--rows 1] [--threads 1] [--markdown]

All kernels of a shape and a number of rows run in turn, once per round, so that a change of the
machine's speed meets all of them. Times are medians over the rounds, and with one thread CPU times,
which other processes disturb less. Intervals of 95 % come from resampled rounds. "Reading" is the
time that torch takes to sum as many bytes as the weight has: no kernel that reads its weight once
can be much faster.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import click
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from loadtests.benchmarks import options
from loadtests.benchmarks.machine import describe_machine
from loadtests.trials.grid import Grid, show
from variants.runtime.kernels import library, operators
from variants.runtime.kernels.packing import (
    pack24,
    pack24_int8,
    pack_dense,
    pack_dense_int8,
    pack_sparse,
)
from variants.runtime.linear24 import mask24
from variants.runtime.rounds import choose_clock
from variants.runtime.sparse.forms import quantize

SHAPES: Final = ("2048x784", "2048x2048", "384x384", "1536x384", "384x1536", "4096x4096")
"""`out` x `in`: the demo's hidden layers, the layers of MiniLM, and one larger than caches."""
ROWS: Final = (1, 2, 4, 8, 16, 32, 64)
ZEROS: Final = (0.8, 0.9, 0.95)
PACKED: Final = "dense, packed"
PACKED_INT8: Final = "dense INT8, packed"
ONNX: Final = "dense, onnxruntime"
ONNX_INT8: Final = "dense INT8, onnxruntime"
REFERENCES: Final = (PACKED, PACKED_INT8, ONNX, ONNX_INT8)
"""The kernels to which the others are compared."""
RESAMPLES: Final = 500

Product: TypeAlias = Callable[[Tensor], object]
"""Multiplies features FP32 `[rows, in]` by a weight."""


class Kernel(NamedTuple):
    """A way to multiply, and the size of its weight."""

    size_bytes: int
    product: Product


def kernels(out: int, inputs: int) -> dict[str, Kernel]:
    """Return all kernels with random weights `[out, in]`."""
    weight = torch.randn(out, inputs, generator=torch.Generator().manual_seed(0))
    weight24 = weight * mask24(weight)
    linear = nn.Linear(inputs, out, bias=False)
    linear.weight.data.copy_(weight)
    packed, two_four = pack_dense(weight), pack24(weight24)
    int8, packed_int8 = pack24_int8(*quantize(weight24)), pack_dense_int8(*quantize(weight))
    by_name = {
        "2:4": Kernel(_size(*two_four), lambda x: operators.linear24(x, *two_four, None, out)),
        "2:4 INT8": Kernel(_size(*int8), lambda x: operators.linear24_int8(x, *int8, None, out)),
        **{f"{zeros:.0%} zeros": _sparse(weight, zeros) for zeros in ZEROS},
        PACKED: Kernel(_size(packed), lambda x: operators.linear_packed(x, packed, None, out)),
        PACKED_INT8: Kernel(
            _size(*packed_int8),
            lambda x: operators.linear_packed_int8(x, *packed_int8, None, out),
        ),
        ONNX: Kernel(_size(weight), _onnx(_model(weight))),
        "dense, torch": Kernel(_size(weight), lambda x: F.linear(x, weight)),
        ONNX_INT8: Kernel(weight.numel(), _onnx(_quantized(_model(weight)))),
        "dense INT8, torch": Kernel(weight.numel(), _quantized_by_torch(linear)),
        f"{ZEROS[1]:.0%} zeros, torch CSR": _csr(weight, ZEROS[1]),
    }
    return by_name


def time_in_turns(
    by_name: Mapping[str, Product], features: Tensor, seconds: float
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the times of each kernel in every round, in microseconds.

    A kernel runs twice in its turn, and the second time counts: the first brings its weight into
    the caches, as in a service that runs one model.
    """
    clock = choose_clock(torch.get_num_threads())
    times: dict[str, list[float]] = {name: [] for name in by_name}
    end = time.perf_counter() + seconds * len(by_name)
    while len(times[PACKED]) < 5 or time.perf_counter() < end:
        for name, product in by_name.items():
            product(features)
            start = clock()
            product(features)
            times[name].append((clock() - start) * 1e6)
    return {name: np.array(each) for name, each in times.items()}


class Estimate(NamedTuple):
    """A value with its interval of 95 %."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def median(times: npt.NDArray[np.float64]) -> Estimate:
    """Return the median of times."""
    return ratio(times, None)


def ratio(
    numerator: npt.NDArray[np.float64], denominator: npt.NDArray[np.float64] | None
) -> Estimate:
    """Return the ratio of two medians, over the same rounds."""
    rng = np.random.default_rng(0)
    rounds = rng.integers(len(numerator), size=(RESAMPLES, len(numerator)))
    value, resampled = np.median(numerator), np.median(numerator[rounds], axis=1)
    if denominator is not None:
        value = value / np.median(denominator)
        resampled = resampled / np.median(denominator[rounds], axis=1)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Estimate(float(value), float(low), float(high))


def lines(
    rows: int, by_name: Mapping[str, Kernel], times: Mapping[str, npt.NDArray[np.float64]]
) -> list[tuple[str, ...]]:
    """Return the lines of the table for one number of rows."""
    return [
        (
            str(rows),
            name,
            f"{by_name[name].size_bytes / 1e3:,.0f}",
            f"{read_us(by_name[name].size_bytes):,.0f}",
            f"{median(each):,.0f}",
            *(
                f"{ratio(times[reference], each):.2f}" if reference in times else ""
                for reference in REFERENCES
            ),
        )
        for name, each in times.items()
    ]


def read_us(size_bytes: int) -> float:
    """Return the time to sum that many bytes, in microseconds."""
    clock = choose_clock(torch.get_num_threads())
    values = torch.ones(max(1, size_bytes // 4))
    times = []
    for _ in range(20):
        start = clock()
        values.sum()
        times.append((clock() - start) * 1e6)
    return float(np.median(times))


def _size(*tensors: Tensor) -> int:
    return sum(each.nbytes for each in tensors)


def _zeroed(weight: Tensor, zeros: float) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return weight * (torch.rand(weight.shape, generator=generator) >= zeros)


def _sparse(weight: Tensor, zeros: float) -> Kernel:
    packed = pack_sparse(_zeroed(weight, zeros))
    return Kernel(_size(*packed), lambda x: operators.linear_sparse(x, *packed, None))


def _csr(weight: Tensor, zeros: float) -> Kernel:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")  # a beta feature of torch
        csr = _zeroed(weight, zeros).to_sparse_csr()
        indices = csr.crow_indices().int(), csr.col_indices().int()
        csr = torch.sparse_csr_tensor(*indices, csr.values(), csr.shape)

    def product(features: Tensor) -> Tensor:
        if len(features) == 1:
            return (csr @ features[0])[None]
        return (csr @ features.T).T.contiguous()

    return Kernel(_size(*indices, csr.values()), product)


def _model(weight: Tensor) -> ModelProto:
    out, inputs = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", out])],
        [numpy_helper.from_array(np.ascontiguousarray(weight.T.numpy()), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _quantized(model: ModelProto) -> ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(model, path, per_channel=True, weight_type=QuantType.QInt8)
        return onnx.load(path)


def _quantized_by_torch(linear: nn.Linear) -> Product:
    untyped: Any = torch.ao.quantization
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated; its successor is another package
        quantized: nn.Module = untyped.quantize_dynamic(nn.Sequential(linear))
    return quantized


def _onnx(model: ModelProto) -> Product:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )

    def product(features: Tensor) -> Any:
        return session.run(None, {"x": features.numpy()})

    return product


@click.command()
@options.seconds(0.2)
@click.option("--shape", "shapes", multiple=True, default=SHAPES, help="`out`x`in`; repeatable.")
@click.option(
    "--rows", "all_rows", type=click.IntRange(min=1), multiple=True, default=ROWS,
    help="Rows of features; repeatable.",
)  # fmt: skip
@click.option(
    "--threads", "all_threads", type=click.IntRange(min=1), multiple=True, default=(1, 2),
    help="Threads of all kernels; repeatable.",
)  # fmt: skip
@click.option(
    "--kernel", "selected", multiple=True, help="Name of a kernel to measure; repeatable."
)
@options.markdown
def main(
    seconds: float,
    shapes: Sequence[str],
    all_rows: Sequence[int],
    all_threads: Sequence[int],
    selected: Sequence[str],
    as_markdown: bool,
) -> None:
    """Measure one Linear layer with every kernel."""
    columns = [
        "rows",
        "kernel",
        "kB",
        "reading, µs",
        "µs",
        *(f"over {each}" for each in REFERENCES),
    ]
    grids = []
    with Progress(transient=True) as progress, torch.inference_mode():
        for threads in all_threads:
            torch.set_num_threads(threads)
            for shape in progress.track(shapes, description=f"{threads} threads"):
                before = describe_machine()
                out, inputs = map(int, shape.split("x"))
                by_name = {
                    name: kernel
                    for name, kernel in kernels(out, inputs).items()
                    if not selected or name in selected or name == PACKED
                }
                products = {name: kernel.product for name, kernel in by_name.items()}
                table = []
                for rows in all_rows:
                    times = time_in_turns(products, torch.randn(rows, inputs), seconds)
                    table += lines(rows, by_name, times)
                note = (
                    f"{library.instruction_set()} kernels, {threads} thread(s); {before} before."
                    if library.is_compiled()
                    else library.missing_reason()
                )
                grids.append(Grid(f"Linear {shape}, {threads} thread(s)", columns, table, note))
    show(grids, Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    main()

"""Is a sparse weight smaller and faster? One Linear in every format there is, against dense.

    python -m loadtests.benchmarks.formats [--markdown]

Zeros are where chance put them: neither bytes nor time depend on which weights are zero, only on
how many, and in what pattern. Every format takes turns with the dense weight, and is compared with
the faster of torch and onnxruntime; what torch cannot compute is listed with its reason.
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

from loadtests.benchmarks.throughput import machine
from loadtests.trials.grid import Grid, show
from variants.catalog.catalog import BatchLatency, Interval
from variants.measurement.profiling import profile
from variants.runtime.linear24 import Linear24, mask24, pack
from variants.runtime.onnx import OnnxRunner

SHAPES: Final = ((2048, 784), (3072, 768))
SPARSITIES: Final = (0.5, 0.8, 0.9, 0.95, 0.99)
BATCHES: Final = (1, 64)
BLOCK: Final = 16
"""Rows and columns of the blocks of a block-sparse weight."""

DENSE_TORCH: Final = "dense, torch"
DENSE_ONNX: Final = "dense, onnxruntime"

Product: TypeAlias = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""FP32 `[n, in]` to `[n, out]`."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """Where the zeros of a weight are."""

    name: str
    weight: Tensor
    """FP32 `[out, in]`"""


@dataclass(frozen=True, eq=False)
class Format:
    """One way to keep a weight, and how to compute with it."""

    size_bytes: int
    """Of everything that is stored to say what the weight is."""
    load: Callable[[], Product]
    """Make it anew: where in memory a copy lies is part of its speed."""


def patterns(out: int, inputs: int) -> list[Pattern]:
    """Return the weight with single zeros, with blocks of them, and with two of every four."""
    weight = torch.randn(out, inputs, generator=torch.Generator().manual_seed(0))
    blocks = torch.Size([out // BLOCK, inputs // BLOCK])
    found = [
        Pattern(f"unstructured {share:.0%}", weight * _random(weight.shape, share))
        for share in SPARSITIES
    ]
    for share in SPARSITIES:
        mask = _random(blocks, share).repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        found.append(Pattern(f"blocks of {BLOCK} x {BLOCK}, {share:.0%}", weight * mask))
    found.append(Pattern("2:4", weight * mask24(weight)))
    return found


def formats(weight: Tensor) -> dict[str, Format]:
    """Return every format that can hold the weight `[out, in]`, both multiples of `BLOCK`.

    2:4 is missing where more than 2 of 4 are not zero. Indices are INT32, which is half of torch's
    own INT64 and faster.
    """
    dense = 4 * weight.numel()
    found = {
        DENSE_TORCH: Format(dense, lambda: _dense(torch.randn_like(weight))),
        DENSE_ONNX: Format(dense, lambda: _onnx(torch.randn_like(weight))),
        "dense with mask, torch": Format(dense, lambda: _dense(weight.clone())),
        "dense with mask, onnxruntime": Format(dense, lambda: _onnx(weight)),
        "CSR": _sparse(lambda: _csr(weight)),
        "CSC": _sparse(lambda: _csc(weight)),
    }
    for block in ((4, 4), (BLOCK, BLOCK), (1, BLOCK)):
        found[f"BSR {block[0]} x {block[1]}"] = _sparse(partial(_bsr, weight, block))
    if ((weight.reshape(len(weight), -1, 4) != 0).sum(-1) <= 2).all():
        values, indices = pack(weight)
        found["packed 2:4, unpacked at load"] = Format(
            values.nbytes + indices.nbytes, lambda: _packed(values, indices)
        )
        found["torch semi-structured 2:4"] = Format(
            values.nbytes + len(weight) * weight.shape[1] // 8,
            lambda: _product(torch.sparse.to_sparse_semi_structured(weight.clone())),
        )
    return found


def computable(found: Mapping[str, Format], inputs: int) -> tuple[dict[str, Format], list[str]]:
    """Return the formats that this torch can compute with, and what it says of the others."""
    able, reasons = {}, []
    samples = np.zeros((2, inputs), np.float32)
    for name, form in found.items():
        try:
            form.load()(samples)
        except RuntimeError as error:
            reasons.append(f"{name}: torch cannot compute it here: {_first_line(error)}")
        else:
            able[name] = form
    return able, reasons


def measure(
    found: Mapping[str, Format], inputs: int, seconds: float
) -> dict[str, tuple[BatchLatency, ...]]:
    """Time the formats in turns, at every batch size; the speedup is over the faster dense."""
    samples = np.random.default_rng(0).standard_normal((max(BATCHES), inputs), dtype=np.float32)

    def loader(form: Format) -> Callable[[], Callable[[Mapping[str, Any]], dict[str, Any]]]:
        def load() -> Callable[[Mapping[str, Any]], dict[str, Any]]:
            product = form.load()
            return lambda given: {"y": product(given["x"])}

        return load

    return profile(
        {name: loader(form) for name, form in found.items()},
        {"x": samples},
        dense={"torch": DENSE_TORCH, "onnx": DENSE_ONNX},
        seconds_per_point=seconds,
        batch_sizes=BATCHES,
    )


def rows(
    pattern: str, found: Mapping[str, Format], measured: Mapping[str, Sequence[BatchLatency]]
) -> list[tuple[str, ...]]:
    """Return the table's rows for one pattern."""
    dense = found[DENSE_TORCH].size_bytes
    lines = []
    for name, form in found.items():
        times = [
            text
            for point in measured[name]
            for text in (f"{point.p50_s * 1e6:,.0f}", _ratio(point.speedup))
        ]
        share = f"{form.size_bytes / dense:.1%}"
        lines.append((pattern, name, f"{form.size_bytes / 1e3:,.0f}", share, *times))
    return lines


def _ratio(speedup: Interval) -> str:
    return f"{speedup.value:.2f} ({speedup.low:.2f} to {speedup.high:.2f})"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")


def _random(shape: torch.Size, zeros: float) -> Tensor:
    """Mark places at random, all but exactly the share `zeros`, rounded: BOOL of the shape."""
    count = shape.numel()
    mask = torch.ones(count, dtype=torch.bool)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    mask[order[: round(zeros * count)]] = False
    return mask.reshape(shape)


def _dense(weight: Tensor) -> Product:
    return lambda given: F.linear(torch.from_numpy(given), weight).numpy()


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
    return lambda given: run({"x": given})["y"]


def _packed(values: Tensor, indices: Tensor) -> Product:
    layer = Linear24(values.clone(), indices.clone(), None)
    return lambda given: layer(torch.from_numpy(given)).numpy()


def _sparse(make: Callable[[], Tensor]) -> Format:
    weight = make()
    places: list[Tensor]
    match weight.layout:
        case torch.sparse_csc:
            places = [weight.ccol_indices(), weight.row_indices()]
        case _:
            places = [weight.crow_indices(), weight.col_indices()]
    size = weight.values().nbytes + sum(place.nbytes for place in places)
    return Format(size, lambda: _product(make()))


def _product(weight: Tensor) -> Product:
    """Multiply from the left, which torch does several times faster than `F.linear` here.

    At batch 1 as a vector, except of blocks: each of them the faster way.
    """
    is_flat = weight.layout in (torch.sparse_csr, torch.sparse_csc)

    def product(given: npt.NDArray[Any]) -> npt.NDArray[Any]:
        samples = torch.from_numpy(given)
        if is_flat and len(samples) == 1:
            return (weight @ samples[0])[None].numpy()
        return (weight @ samples.T).T.contiguous().numpy()

    return product


def _csr(weight: Tensor) -> Tensor:
    sparse = weight.to_sparse_csr()
    places = sparse.crow_indices().int(), sparse.col_indices().int()
    return torch.sparse_csr_tensor(*places, sparse.values(), sparse.shape)


def _csc(weight: Tensor) -> Tensor:
    sparse = weight.to_sparse_csc()
    places = sparse.ccol_indices().int(), sparse.row_indices().int()
    return torch.sparse_csc_tensor(*places, sparse.values(), sparse.shape)


def _bsr(weight: Tensor, block: tuple[int, int]) -> Tensor:
    sparse = weight.to_sparse_bsr(block)
    places = sparse.crow_indices().int(), sparse.col_indices().int()
    return torch.sparse_bsr_tensor(*places, sparse.values(), sparse.shape)


@click.command()
@click.option("--seconds", type=float, default=0.5, show_default=True, help="Of each point.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
def main(seconds: float, threads: int, as_markdown: bool) -> None:
    """Time one Linear in every format, at several sparsities."""
    torch.set_num_threads(threads)
    # torch warns that its sparse tensors are a beta feature, once for each layout.
    warnings.filterwarnings("ignore", message="Sparse")
    before = machine()
    columns = ["zeros", "format", "kB", "of dense"]
    for batch in BATCHES:
        columns += [f"µs, batch {batch}", "times as fast"]
    grids = []
    with Progress(transient=True) as progress:
        for out, inputs in SHAPES:
            lines, reasons = [], dict[str, None]()
            for pattern in progress.track(patterns(out, inputs), description=f"{out} x {inputs}"):
                able, unable = computable(formats(pattern.weight), inputs)
                reasons |= dict.fromkeys(unable)
                lines += rows(pattern.name, able, measure(able, inputs, seconds))
            note = (
                "Medians; times as fast as the faster dense, with 95 % intervals. Stored bytes, "
                f"indices INT32. {threads} thread(s); {before} before.\n\n{'; '.join(reasons)}."
            )
            grids.append(Grid(f"A Linear of {out} x {inputs}, FP32", columns, lines, note))
    show(grids, Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    main()

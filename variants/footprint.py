"""How much memory holding one variant takes, seen from a fresh process that does nothing else.

    resident_bytes ─▶ child process: import libraries │ load, run every batch size │ ─▶ bytes
                                              first reading                 second reading

What is counted is the growth of the process's resident set (RSS) between the two readings: the
weights as the runtime holds them, its session, threads and scratch memory, and what the first run
of each batch size leaves behind. What is not counted: the interpreter and importing the runtime's
libraries, which a process pays once however many variants it holds.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import psutil

from variants.blank import blank_batch
from variants.catalog import Model, Variant
from variants.profiling import BATCH_SIZES
from variants.record import Record
from variants.runners import load_runner

RUNS = 3
"""Calls at each batch size; the second and third can still grow an allocator's pool."""


class Request(Record):
    """What the child process is told, as JSON on its standard input."""

    catalog: Path
    model: Model
    variant: Variant
    threads: int
    batch_sizes: tuple[int, ...]


def resident_bytes(
    catalog: Path,
    model: Model,
    variant: Variant,
    *,
    threads: int,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> int:
    """Measure a variant of the catalog in this folder in a process of its own.

    Raises `ValueError` with what the child said last if it fails.
    """
    request = Request(
        catalog=catalog.absolute(),
        model=model,
        variant=variant,
        threads=threads,
        batch_sizes=tuple(batch_sizes),
    )
    child = subprocess.run(
        [sys.executable, "-m", "variants.footprint"],
        input=request.model_dump_json(),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ValueError(f"the memory of {variant.name} could not be measured: {last}")
    return int(child.stdout)


def growth(request: Request) -> int:
    """Load and run the variant in this process; return how many bytes that made it grow."""
    _import_libraries(request)
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss

    runner = load_runner(request.catalog, request.model, request.variant, threads=request.threads)
    for batch_size in request.batch_sizes:
        inputs = blank_batch(request.model, batch_size)
        for _ in range(RUNS):
            runner(inputs)
    gc.collect()
    return max(0, process.memory_info().rss - before)


def _import_libraries(request: Request) -> None:
    import_module(f"variants.runners.{request.variant.runner}")
    if request.variant.runner == "torch":
        import_module(request.model.factory.partition(":")[0])


if __name__ == "__main__":
    print(growth(Request.model_validate_json(sys.stdin.read())))

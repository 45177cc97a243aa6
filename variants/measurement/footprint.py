"""What holding one variant takes, seen from fresh processes that do nothing else.

    measure_footprint ─▶ child: import libraries │ load, answer once │ run every batch size ─▶ ...
                                    memory before   load time            memory after, peak

Memory is the growth of the process's resident set (RSS): the weights as the runtime holds them, its
session, threads and scratch memory. The interpreter and importing the runtime's libraries are not
counted, which a process pays once however many variants it holds; nor is importing in load time.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray
from pydantic import Field

from variants.catalog.catalog import LoadTime, Model, Variant
from variants.catalog.record import Record
from variants.measurement.profiling import BATCH_SIZES
from variants.model.dataset import Samples, count, rows
from variants.runtime.runner import load_runner

PROCESSES: Final = 3
RUNS: Final = 3
"""Calls at each batch size; the second and third can still grow an allocator's pool."""

_PEAK: Final = Path("/proc/self/clear_refs")
"""Where Linux lets a process set its peak back to what it holds now, by a 5."""


class Footprint(Record):
    """What the fresh processes saw; memory is the median of them, in bytes."""

    load: LoadTime
    resident_bytes: int
    peak_bytes: int | None


class Request(Record):
    """What a child process is told, as JSON on its standard input."""

    catalog: Path
    model: Model
    variant: Variant
    threads: int
    batch_sizes: tuple[int, ...]
    samples: Path
    """An `.npz` of samples enough for the largest batch."""


class Seen(Record):
    """What a child process answers, as JSON on its standard output."""

    load_s: float = Field(gt=0)
    resident_bytes: int = Field(ge=0)
    peak_bytes: int | None = Field(ge=0)


def measure_footprint(
    catalog: Path,
    model: Model,
    variant: Variant,
    samples: Samples,
    *,
    threads: int,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    processes: int = PROCESSES,
) -> Footprint:
    """Measure a variant of the catalog in this folder, in that many processes one after another.

    Raises `ValueError` with what a child said last if it fails.
    """
    numbers = np.arange(max(batch_sizes)) % count(samples)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "samples.npz"
        given: dict[str, Any] = rows(samples, numbers)
        np.savez(file, **given)
        request = Request(
            catalog=catalog.absolute(),
            model=model,
            variant=variant,
            threads=threads,
            batch_sizes=tuple(batch_sizes),
            samples=file,
        )
        seen = [_ask(request) for _ in range(processes)]
    load_s = [one.load_s for one in seen]
    peaks = [one.peak_bytes for one in seen if one.peak_bytes is not None]
    return Footprint(
        load=LoadTime(
            median_s=median(load_s), least_s=min(load_s), most_s=max(load_s), processes=processes
        ),
        resident_bytes=int(median(one.resident_bytes for one in seen)),
        peak_bytes=int(median(peaks)) if peaks else None,
    )


def look(request: Request) -> Seen:
    """Load and run the variant in this process; return what that took."""
    _import_libraries(request)
    with np.load(request.samples) as file:
        samples: dict[str, NDArray[Any]] = dict(file)
    gc.collect()
    can_tell_peak = _forget_peak()
    process = psutil.Process()
    before = process.memory_info().rss

    started = time.perf_counter()
    runner = load_runner(request.catalog, request.model, request.variant, threads=request.threads)
    runner(rows(samples, slice(0, 1)))
    load_s = time.perf_counter() - started

    for batch_size in request.batch_sizes:
        batch = rows(samples, slice(0, batch_size))
        for _ in range(RUNS):
            runner(batch)
    gc.collect()
    return Seen(
        load_s=load_s,
        resident_bytes=max(0, process.memory_info().rss - before),
        peak_bytes=max(0, _peak() - before) if can_tell_peak else None,
    )


def _ask(request: Request) -> Seen:
    child = subprocess.run(
        [sys.executable, "-m", "variants.measurement.footprint"],
        input=request.model_dump_json(),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or ["it said nothing"])[-1]
        name = request.variant.name
        raise ValueError(f"load time and memory of {name} could not be measured: {last}")
    return Seen.model_validate_json(child.stdout)


def _import_libraries(request: Request) -> None:
    import_module(f"variants.runtime.{request.variant.runner}")
    if request.variant.runner == "torch":
        import_module(request.model.factory.partition(":")[0])


def _forget_peak() -> bool:
    """Set this process's peak of resident memory back to what it holds; return whether it worked.

    Without that the peak could be from importing libraries, or even the parent's.
    """
    try:
        _PEAK.write_text("5")
    except OSError:
        return False
    return True


def _peak() -> int:
    """Return the most memory that was resident since `_forget_peak`, in bytes."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as answer:
        # Modules of the user's, or what they load, may print; only the record is for the parent.
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        print(look(Request.model_validate_json(sys.stdin.read())).model_dump_json(), file=answer)

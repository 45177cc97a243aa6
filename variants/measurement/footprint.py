"""Load time and memory of a variant, measured in fresh processes.

    measure_footprint ─▶ child: import libraries │ load, answer once │ run every batch size ─▶ ...
                                    memory before   load time            memory after, peak

Memory is the growth of the resident set size (RSS): weights, session, threads and scratch memory.
The interpreter and imported libraries are excluded, since a process needs them once for any number
of variants. Load time excludes imports too.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray
from pydantic import Field

from variants.catalog.catalog import LoadTime, Model, Variant
from variants.catalog.device import Device, is_gpu
from variants.catalog.kernels import KernelTable
from variants.catalog.record import Record
from variants.measurement.gpu_memory import used_bytes
from variants.measurement.profiling import BATCH_SIZES
from variants.model.dataset import Samples, count, rows
from variants.runtime.runner import load_runner

PROCESSES: Final = 3
"""Child processes per variant."""

RUNS: Final = 3
"""Calls per batch size. Memory pools of allocators can grow up to the third call."""

_CLEAR_REFS: Final = Path("/proc/self/clear_refs")
"""Linux resets the peak RSS of a process when 5 is written to this file."""


class Footprint(Record):
    """Results over all processes. Memory is the median, in bytes."""

    load: LoadTime
    resident_bytes: int
    peak_bytes: int | None
    gpu_bytes: int | None
    elsewhere: Mapping[str, tuple[str, ...]]


class ProcessRequest(Record):
    """Input of a child process, as JSON on its standard input."""

    catalog: Path
    model: Model
    variant: Variant
    threads: int
    device: Device = "cpu"
    kernels: KernelTable | None
    batch_sizes: tuple[int, ...]
    samples: Path
    """An `.npz` file with samples for the largest batch, in the order of the model's inputs. Their
    names are not in it, since an input may have any name."""


class ProcessMeasurement(Record):
    """Result of a child process, as JSON on its standard output."""

    load_s: float = Field(gt=0)
    resident_bytes: int = Field(ge=0)
    peak_bytes: int | None = Field(ge=0)
    gpu_bytes: int | None = Field(default=None, ge=0)
    elsewhere: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """On a GPU, the operators of the graph that another provider runs, by the name of it."""


def measure_footprint(
    catalog: Path,
    model: Model,
    variant: Variant,
    samples: Samples,
    *,
    threads: int,
    device: Device = "cpu",
    batch_sizes: Sequence[int] = BATCH_SIZES,
    processes: int = PROCESSES,
    kernels: KernelTable | None = None,
) -> Footprint:
    """Measure a variant of the catalog in this folder, in sequential child processes.

    `kernels` are those of its sparse layers, as for `load_runner`.

    Raises `ValueError` with the last line of the error output if a child fails.
    """
    indices = np.arange(max(batch_sizes)) % count(samples)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "samples.npz"
        selected = rows(samples, indices)
        np.savez(file, *selected.values())
        request = ProcessRequest(
            catalog=catalog.absolute(),
            model=model,
            variant=variant,
            threads=threads,
            device=device,
            kernels=kernels,
            batch_sizes=tuple(batch_sizes),
            samples=file,
        )
        measurements = [_run_child(request) for _ in range(processes)]
    load_s = [each.load_s for each in measurements]
    peaks = [each.peak_bytes for each in measurements if each.peak_bytes is not None]
    gpu = [each.gpu_bytes for each in measurements if each.gpu_bytes is not None]
    return Footprint(
        load=LoadTime(
            median_s=median(load_s), least_s=min(load_s), most_s=max(load_s), processes=processes
        ),
        resident_bytes=int(median(each.resident_bytes for each in measurements)),
        peak_bytes=int(median(peaks)) if peaks else None,
        gpu_bytes=int(median(gpu)) if gpu else None,
        elsewhere=measurements[0].elsewhere,
    )


def measure_this_process(request: ProcessRequest) -> ProcessMeasurement:
    """Load and run the variant in this process, and measure load time and memory."""
    _import_libraries(request)
    with np.load(request.samples) as file:
        arrays = [file[f"arr_{number}"] for number in range(len(file.files))]
    names = [spec.name for spec in request.model.inputs]
    samples: dict[str, NDArray[Any]] = dict(zip(names, arrays, strict=True))
    gc.collect()
    has_peak = _reset_peak()
    process = psutil.Process()
    before = process.memory_info().rss
    gpu_before = used_bytes() if is_gpu(request.device) else None

    started = time.perf_counter()
    runner = load_runner(
        request.catalog,
        request.model,
        request.variant,
        threads=request.threads,
        device=request.device,
        kernels=request.kernels,
    )
    runner(rows(samples, slice(0, 1)))
    load_s = time.perf_counter() - started

    for batch_size in request.batch_sizes:
        batch = rows(samples, slice(0, batch_size))
        for _ in range(RUNS):
            runner(batch)
    gc.collect()
    return ProcessMeasurement(
        load_s=load_s,
        resident_bytes=max(0, process.memory_info().rss - before),
        peak_bytes=max(0, _peak() - before) if has_peak else None,
        gpu_bytes=None if gpu_before is None else max(0, used_bytes() - gpu_before),
        elsewhere=getattr(runner, "elsewhere", {}),
    )


def _run_child(request: ProcessRequest) -> ProcessMeasurement:
    child = subprocess.run(
        [sys.executable, "-m", "variants.measurement.footprint"],
        input=request.model_dump_json(),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or ["no error output"])[-1]
        name = request.variant.name
        raise ValueError(f"load time and memory of {name} could not be measured: {last}")
    return ProcessMeasurement.model_validate_json(child.stdout)


def _import_libraries(request: ProcessRequest) -> None:
    import_module(f"variants.runtime.{request.variant.runner}")
    if request.variant.runner == "torch":
        import_module(request.model.factory.partition(":")[0])


def _reset_peak() -> bool:
    """Reset the peak RSS of this process to its current RSS; return whether that succeeded.

    Otherwise the peak could stem from imports, or from the parent process.
    """
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def _peak() -> int:
    """Return the peak RSS since `_reset_peak`, in bytes."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as result:
        # User modules may print, so stdout goes to stderr. Only the result goes to the parent.
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        measurement = measure_this_process(ProcessRequest.model_validate_json(sys.stdin.read()))
        print(measurement.model_dump_json(), file=result)

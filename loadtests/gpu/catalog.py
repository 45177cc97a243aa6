"""The variants of a catalog from end to end on each device: answers first, then latency."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loadtests.gpu.deadline import Deadline
from loadtests.trials.grid import Grid
from variants.catalog.catalog import Catalog
from variants.catalog.device import DEVICES, Device, provider
from variants.catalog.zero_inputs import zero_batch
from variants.measurement.profiling import WARM_UP_CALLS
from variants.runtime.runner import Runner, load_runner

BATCHES: Final = (1, 8, 64)
CALLS: Final = 50

Batch = Mapping[str, NDArray[Any]]


class Served(NamedTuple):
    """A variant on a device: median seconds by batch size, and how far its outputs are off."""

    variant: str
    provider: str
    seconds: Mapping[int, float]
    difference: float
    """Norm of the difference from the outputs on the CPU over their norm; NaN is wrong."""
    elsewhere: Mapping[str, tuple[str, ...]]
    problem: str = ""
    """Why the variant does not run on the device."""


def measure_catalog(
    folder: Path, deadline: Deadline, devices: Sequence[Device] = DEVICES
) -> Iterator[Served]:
    """Run every variant of a catalog on every device, the CPU first, with one thread.

    Raises `ValueError` if the folder is not a catalog.
    """
    catalog = Catalog.load(folder)
    batches = {size: _random(zero_batch(catalog.model, size)) for size in BATCHES}
    for name, variant in catalog.variants.items():
        if not deadline.allows(f"{name} from end to end"):
            continue
        expected = load_runner(folder, catalog.model, variant, threads=1)(batches[BATCHES[-1]])
        for device in devices:
            executed_by = provider(variant.runner, device)
            try:
                runner = load_runner(folder, catalog.model, variant, threads=1, device=device)
            except ValueError as error:
                yield Served(name, executed_by, {}, 0.0, {}, str(error))
                continue
            difference = max(
                relative_difference(actual, expected[output])
                for output, actual in runner(batches[BATCHES[-1]]).items()
            )
            seconds = {size: _median_s(runner, batch) for size, batch in batches.items()}
            yield Served(name, executed_by, seconds, difference, getattr(runner, "elsewhere", {}))


def relative_difference(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    wide = expected.astype(np.float64)
    norm = float(np.linalg.norm(wide))
    return float(np.linalg.norm(actual.astype(np.float64) - wide)) / max(norm, 1e-300)


def catalog_grid(results: Sequence[Served]) -> Grid:
    """Return the table of the variants from end to end."""
    return Grid(
        "From end to end, p50 in ms, copies included",
        ("variant", "provider", *(f"batch {size}" for size in BATCHES), "off by", "elsewhere"),
        [
            (
                each.variant,
                each.provider,
                *(
                    f"{each.seconds[size] * 1e3:.3f}" if size in each.seconds else "-"
                    for size in BATCHES
                ),
                "-" if each.problem else f"{each.difference:.1e}",
                each.problem
                or "; ".join(f"{name}: {', '.join(ops)}" for name, ops in each.elsewhere.items()),
            )
            for each in results
        ],
    )


def _random(zeros: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return random floating-point inputs of the same shapes; others stay zero."""
    rng = np.random.default_rng(0)
    return {
        name: rng.random(array.shape).astype(array.dtype) if array.dtype.kind == "f" else array
        for name, array in zeros.items()
    }


def _median_s(runner: Runner, batch: Batch) -> float:
    """Return the median seconds of a call, which ends when the outputs are on the CPU."""
    for _ in range(WARM_UP_CALLS):
        runner(batch)
    seconds = []
    for _ in range(CALLS):
        before = time.perf_counter()
        runner(batch)
        seconds.append(time.perf_counter() - before)
    return float(np.median(seconds))

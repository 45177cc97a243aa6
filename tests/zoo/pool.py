"""Tries specimens in several processes, each with one thread."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context

import torch

from tests.zoo.networks import SPECIMENS
from tests.zoo.trial import Outcome, try_specimen


def try_all(names: Sequence[str], cases: Sequence[str], jobs: int) -> list[Outcome]:
    """Return the outcomes of these cases on the specimens; print each specimen when it is done."""
    outcomes = {}
    with ProcessPoolExecutor(jobs, get_context("spawn"), _prepare) as pool:
        futures = {pool.submit(_try, name, cases): name for name in names}
        for future in as_completed(futures):
            name = futures[future]
            outcomes[name] = future.result()
            counts = Counter(outcome.verdict for outcome in outcomes[name])
            shown = ", ".join(f"{counts[verdict]} {verdict}" for verdict in counts)
            print(f"{len(outcomes)} of {len(names)}: {name}: {shown}", file=sys.stderr, flush=True)
    return [outcome for name in names for outcome in outcomes[name]]


def _prepare() -> None:
    """Prepare a process: one thread, and the exporter's table of operators is built once."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    torch.set_num_threads(1)
    build: Callable[[], ONNXRegistry] = ONNXRegistry.from_torchlib
    ONNXRegistry.from_torchlib = staticmethod(cache(build))  # type: ignore[method-assign]


def _try(name: str, cases: Sequence[str]) -> list[Outcome]:
    return try_specimen(SPECIMENS[name], cases)

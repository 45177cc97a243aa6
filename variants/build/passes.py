"""Runs dense once over the samples of all splits, which finds samples that it does not accept."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from variants.build import problems
from variants.model.dataset import Datasets, Samples, count, rows
from variants.model.forward import scores, tensors

_BATCH: Final = 256
"""Samples per call."""
_ORDER: Final = ("test", "validation", "train")
"""Measuring needs the first, and compression the others."""


@dataclass(frozen=True)
class SamplePass:
    """What one pass over the samples showed."""

    done: Mapping[str, int]
    """Number of samples that were run, by split."""
    totals: Mapping[str, int]
    seconds: float

    @property
    def seconds_per_sample(self) -> float:
        """Seconds that dense takes for a sample in torch, in large batches."""
        return self.seconds / max(1, sum(self.done.values()))

    @property
    def is_complete(self) -> bool:
        """Whether all samples were run."""
        return self.done == self.totals

    def describe(self) -> str:
        """Return which samples were run."""
        parts = [
            f"{name} {self.done[name]:,}"
            + ("" if self.done[name] == total else f" of {total:,}, for lack of time")
            for name, total in self.totals.items()
        ]
        return f"dense answers all samples with finite scores: {', '.join(parts)}"


def run_splits(network: nn.Module, datasets: Datasets, *, seconds: float) -> SamplePass:
    """Run the samples of all splits once, and stop after this time.

    Raises `ValueError` with the first sample that the network does not accept, or to which it gives
    a score that is not finite.
    """
    network.eval()
    started = time.perf_counter()
    samples = {name: split.samples for name, split in problems.splits(datasets)}
    totals = {name: count(samples[name]) for name in _ORDER}
    done = dict.fromkeys(_ORDER, 0)
    for name, start in _parts(totals):
        if time.perf_counter() - started > seconds:
            break
        part = rows(samples[name], slice(start, start + _BATCH))
        _require_answers(network, part, name, start)
        done[name] += count(part)
    return SamplePass(done, totals, time.perf_counter() - started)


def _parts(totals: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for name, total in totals.items():
        for start in range(0, total, _BATCH):
            yield name, start


def _require_answers(network: nn.Module, part: Samples, split: str, first: int) -> None:
    error = _error(network, part)
    if not error:
        return
    for number in range(count(part)):
        sample = rows(part, slice(number, number + 1))
        if alone := _error(network, sample):
            raise ValueError(
                f"sample {first + number} of {split} ({_describe(sample)}) is not answered: {alone}"
            )
    last = first + count(part) - 1
    raise ValueError(f"samples {first} to {last} of {split} are not answered together: {error}")


def _error(network: nn.Module, samples: Samples) -> str:
    """Return why the network does not answer, or ""."""
    try:
        with torch.inference_mode():
            answers = scores(network, tensors(samples))
    except Exception as error:  # code of the user may raise any exception
        return f"{type(error).__name__}: {error}{_embedding_hint(network, error)}"
    return "" if answers.isfinite().all() else "its scores contain NaN or infinity"


def _embedding_hint(network: nn.Module, error: Exception) -> str:
    """Return the ids that the network has vectors for, if that may be the cause."""
    rows_by_name = [
        f"ids of {name} are 0 to {module.num_embeddings - 1}"
        for name, module in network.named_modules()
        if isinstance(module, nn.Embedding)
    ]
    return "; ".join(("", *rows_by_name)) if isinstance(error, IndexError) else ""


def _describe(sample: Samples) -> str:
    return "; ".join(
        f"{name} {array.dtype} {list(array.shape[1:])}, {array.min()} to {array.max()}"
        if array.size
        else f"{name} {array.dtype} {list(array.shape[1:])}"
        for name, array in sample.items()
    )

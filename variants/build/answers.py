"""Compares the answers to a sample alone with those to the same sample in batches.

A gateway joins the requests of several clients into a batch. The outputs for a sample must
therefore not depend on the others, and not on their number.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from variants.compression.export_comparison import relative_difference
from variants.measurement.profiling import BATCH_SIZES
from variants.model.dataset import Samples, count, rows
from variants.model.forward import outputs, tensors
from variants.model.state import Interface

MAX_CHANGE: Final = 1e-3
"""Largest change of an output with its batch, relative to the largest output (FP32 rounding)."""
FEW: Final = 4
"""Samples that are answered alone, and the size of a small batch."""
LARGEST: Final = BATCH_SIZES[-1]
"""The largest batch that a service sends, unless `limits.batch_size` is set."""

Arrays = tuple[NDArray[Any], ...]


def compare_answers(network: nn.Module, samples: Samples, interface: Interface) -> NDArray[Any]:
    """Return the scores `[n, classes]` of the first few samples.

    Raises `ValueError` with what is wrong: outputs without the batch as first dimension, scores of
    another form, random answers, or answers that depend on the batch.
    """
    few = rows(samples, np.arange(FEW) % count(samples))
    alone = [_run(network, rows(few, slice(n, n + 1))) for n in range(FEW)]
    again = _run(network, rows(few, slice(0, 1)))
    if _differs(change := _change(alone[0], again)):
        raise ValueError(
            f"the outputs for a sample change by {change:.1e} of their size from call to call: in "
            f"evaluation mode the network must not be random; look for torch.rand, and for "
            f"F.dropout(..., training=True), which should be self.training"
        )
    singles = tuple(np.concatenate(each) for each in zip(*alone, strict=True))
    _require_batch_dimension(_run_batch(network, few, FEW), FEW, interface)
    for number in (FEW, LARGEST):
        if _differs(change := _change_in_batch(network, samples, singles, number)):
            least, change = _least(network, samples, singles, number, change)
            raise ValueError(
                f"the outputs for a sample change by {change:.1e} of their size with the batch it "
                f"is in, from {least} samples on: a service joins the requests of several clients, "
                f"so forward must neither mix samples nor depend on their number"
                f"{_norm_hint(network)}"
            )
    _require_scores(singles[0])
    return singles[0]


def _run(network: nn.Module, samples: Samples) -> Arrays:
    with torch.inference_mode():
        returned = outputs(network.eval(), tensors(samples))
    return tuple(np.atleast_1d(output.detach().numpy()) for output in returned)


def _run_batch(network: nn.Module, samples: Samples, number: int) -> Arrays:
    try:
        return _run(network, rows(samples, np.arange(number) % count(samples)))
    except Exception as error:  # code of the user may raise any exception
        raise ValueError(
            f"the network accepts one sample, but not a batch of {number}: {error}; the first "
            f"dimension of every input must be the batch"
        ) from error


def _change_in_batch(network: nn.Module, samples: Samples, singles: Arrays, number: int) -> float:
    batch = _run_batch(network, samples, number)
    return _change(singles, tuple(output[:FEW] for output in batch))


def _change(expected: Arrays, actual: Arrays) -> float:
    """Return the largest change of an output of floating-point numbers, perhaps NaN."""
    changes = [
        relative_difference(a, e[: len(a)])
        for a, e in zip(actual, expected, strict=True)
        if e.dtype.kind == "f"
    ]
    return float(np.max(changes, initial=0.0))


def _differs(change: float) -> bool:
    return not change <= MAX_CHANGE  # NaN too


def _least(
    network: nn.Module, samples: Samples, singles: Arrays, number: int, change: float
) -> tuple[int, float]:
    """Return the least number of samples with which answers change, by bisection."""
    right, wrong = 1, number
    while wrong - right > 1:
        middle = (right + wrong) // 2
        found = _change_in_batch(network, samples, singles, middle)
        if _differs(found):
            wrong, change = middle, found
        else:
            right = middle
    return wrong, change


def _require_batch_dimension(batch: Arrays, number: int, interface: Interface) -> None:
    scores = batch[0]
    if scores.ndim != 2 or len(scores) != number or scores.shape[1] < 2:
        raise ValueError(
            f"the network's first output must be scores [n, classes], a row for each of "
            f"{number} samples, got {list(scores.shape)}"
        )
    for spec, output in zip(interface.outputs, batch, strict=True):
        if len(output) != number:
            raise ValueError(
                f"the output {spec.name!r} is {list(output.shape)} for {number} samples: the first "
                f"dimension of every output must be the batch, since outputs are divided among "
                f"requests; leave it out, or repeat it for each sample"
            )


def _require_scores(scores: NDArray[Any]) -> None:
    if scores.dtype.kind != "f":
        raise ValueError(
            f"the network's first output must be floating-point scores, got {scores.dtype}: "
            f"return the scores before any argmax"
        )
    if not np.isfinite(scores).all():
        raise ValueError("the network's scores contain NaN or infinity")


def _norm_hint(network: nn.Module) -> str:
    """Name the layers that normalize over the batch."""
    found = [
        name
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm)
        and (module.training or not isinstance(module.running_mean, Tensor))
        and "InstanceNorm" not in type(module).__name__
    ]
    if not found:
        return ""
    return (
        f"; {', '.join(found)} normalizes over the batch: it needs running statistics "
        f"(track_running_stats=True) and evaluation mode"
    )

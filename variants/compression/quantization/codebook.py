"""Codebooks: tensors stored as codes into a few values, found by deterministic k-means.

    weights ─▶ sorted, with running sums ─▶ Lloyd's iterations until they converge ─▶ codes, values

This module uses only numpy; importing it does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

MAX_VALUES: Final = 256
"""Maximum number of values of a codebook, because a code is one byte."""

_MAX_ITERATIONS: Final = 20_000
"""Maximum number of Lloyd's iterations. A million weights and 256 values need a few hundred."""

KMeansStart: TypeAlias = Literal["linear", "quantile"]
"""Initial values of k-means: evenly spaced over the range, or over the ranks."""


@dataclass(frozen=True, eq=False)
class Codebook:
    """A tensor as `values[codes]`: UINT8 codes in its shape, and FP32 values in ascending order."""

    codes: NDArray[np.uint8]
    values: NDArray[np.float32]

    def decode(self) -> NDArray[np.float32]:
        """Return the stored tensor."""
        return self.values[self.codes]


def make_codebook(
    tensor: NDArray[Any], max_values: int, start: KMeansStart = "quantile"
) -> Codebook:
    """Return a codebook of at most `max_values` values, 2 to 256, that approximates a tensor.

    Zero has a value of its own, so that masked weights stay zero. Equal numbers get equal codes. A
    tensor with at most `max_values` different numbers is stored exactly. Otherwise the values are
    cluster means at which Lloyd's iterations converge. They start from values that are spread
    evenly over the ranks (`quantile`) or over the range (`linear`). `linear` is best in Han, Mao
    and Dally 2015 (arXiv:1510.00149, section 3.2); with 256 values, many clusters in the tails
    then stay empty.

    Raises `ValueError` if `max_values` is out of range or a number is not finite.
    """
    if not 2 <= max_values <= MAX_VALUES:
        raise ValueError(f"a codebook has from 2 to {MAX_VALUES} values, not {max_values}")
    if not np.isfinite(tensor).all():
        raise ValueError("a tensor with numbers that are not finite cannot have a codebook")
    numbers = np.asarray(tensor, np.float32)
    is_zero = numbers == 0
    others = np.sort(numbers[~is_zero])
    zeros = np.zeros(int(is_zero.any()), np.float32)
    different = np.concatenate([others[:1], others[1:][np.diff(others) > 0]])
    if len(different) + len(zeros) <= max_values:
        values = np.sort(np.concatenate([different, zeros]))
        return Codebook(np.searchsorted(values, numbers).astype(np.uint8), values)

    starts, centres = _cluster(others.astype(np.float64), max_values - len(zeros), start)
    means = centres.astype(np.float32)
    values = np.unique(np.concatenate([means, zeros]))
    code = np.searchsorted(values, means)
    cluster = np.searchsorted(others[starts], numbers, side="right") - 1
    codes = np.where(is_zero, np.searchsorted(values, 0), code[np.maximum(cluster, 0)])
    return Codebook(codes.astype(np.uint8), values)


def _cluster(
    numbers: NDArray[np.float64], k: int, start: KMeansStart
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the index in the ascending `numbers` at which each cluster begins, and their means.

    In one dimension a cluster is a run of neighbours. An iteration therefore takes k binary
    searches and k differences of running sums.
    """
    sums = np.concatenate([[0.0], np.cumsum(numbers)])
    if start == "linear":
        centres = np.linspace(numbers[0], numbers[-1], k)
    else:
        centres = numbers[((np.arange(k) + 0.5) / k * len(numbers)).astype(np.int64)]
    edges = np.zeros(k + 1, np.int64)
    for _ in range(_MAX_ITERATIONS):
        boundaries = (centres[:-1] + centres[1:]) / 2
        moved = np.concatenate([[0], np.searchsorted(numbers, boundaries), [len(numbers)]])
        if np.array_equal(moved, edges):
            break
        edges = moved
        sizes = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(sizes, 1)
        centres = np.where(sizes > 0, means, centres)  # an empty cluster keeps its centre
    is_used = np.diff(edges) > 0
    return edges[:-1][is_used], centres[is_used]

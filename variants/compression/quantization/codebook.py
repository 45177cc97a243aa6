"""A tensor as codes into a few values: k-means in one dimension, the same codes every time.

    weights ─▶ sorted, with running sums ─▶ Lloyd's iterations until nothing moves ─▶ codes, values

Plain numpy: importing this does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

MAX_VALUES: Final = 256
"""A code is at most one byte."""

_MAX_ITERATIONS: Final = 20_000
"""Lloyd's iterations end by themselves; a million weights and 256 values take some hundreds."""

KMeansStart: TypeAlias = Literal["linear", "quantile"]


@dataclass(frozen=True, eq=False)
class Codebook:
    """What `values[codes]` stands for: UINT8 codes of the tensor's shape, FP32 values ascending."""

    codes: NDArray[np.uint8]
    values: NDArray[np.float32]

    def decode(self) -> NDArray[np.float32]:
        """Return the tensor that is stored."""
        return self.values[self.codes]


def make_codebook(
    tensor: NDArray[Any], max_values: int, start: KMeansStart = "quantile"
) -> Codebook:
    """Let the numbers of a tensor share at most `max_values` values, 2 to 256.

    Zeros keep a value of their own, so that what a mask holds at zero stays there; equal numbers
    get equal codes; a tensor of no more than `max_values` different numbers is stored exactly. Else the
    values are the means of clusters that Lloyd's iterations leave as they are, from values spread
    evenly over the ranks (`quantile`) or over the range (`linear`, with which Han, Mao and Dally
    2015, arXiv:1510.00149, section 3.2, fare best; many of 256 then stay empty in the tails).

    Raises `ValueError` if `max_values` is out of range or a number is not finite.
    """
    if not 2 <= max_values <= MAX_VALUES:
        raise ValueError(f"a codebook has from 2 to {MAX_VALUES} values, not {max_values}")
    if not np.isfinite(tensor).all():
        raise ValueError("a tensor with numbers that are not finite cannot share values")
    numbers = np.asarray(tensor, np.float32)
    is_zero = numbers == 0
    others = np.sort(numbers[~is_zero])
    zeros = np.zeros(int(is_zero.any()), np.float32)
    different = np.concatenate([others[:1], others[1:][np.diff(others) > 0]])
    if len(different) + len(zeros) <= max_values:
        values = np.sort(np.concatenate([different, zeros]))
        return Codebook(np.searchsorted(values, numbers).astype(np.uint8), values)

    starts, centres = _cluster(others.astype(np.float64), max_values - len(zeros), start)
    meant = centres.astype(np.float32)
    values = np.unique(np.concatenate([meant, zeros]))
    code = np.searchsorted(values, meant)
    cluster = np.searchsorted(others[starts], numbers, side="right") - 1
    codes = np.where(is_zero, np.searchsorted(values, 0), code[np.maximum(cluster, 0)])
    return Codebook(codes.astype(np.uint8), values)


def _cluster(
    numbers: NDArray[np.float64], k: int, start: KMeansStart
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return where in the ascending `numbers` each cluster begins, and the clusters' means.

    In one dimension a cluster is a run of neighbours, so that an iteration is k binary searches
    and k differences of running sums, however many numbers there are.
    """
    sums = np.concatenate([[0.0], np.cumsum(numbers)])
    if start == "linear":
        centres = np.linspace(numbers[0], numbers[-1], k)
    else:
        centres = numbers[((np.arange(k) + 0.5) / k * len(numbers)).astype(np.int64)]
    edges = np.zeros(k + 1, np.int64)
    for _ in range(_MAX_ITERATIONS):
        between = (centres[:-1] + centres[1:]) / 2
        moved = np.concatenate([[0], np.searchsorted(numbers, between), [len(numbers)]])
        if np.array_equal(moved, edges):
            break
        edges = moved
        inside = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(inside, 1)
        centres = np.where(inside > 0, means, centres)  # an empty cluster waits where it is
    is_used = np.diff(edges) > 0
    return edges[:-1][is_used], centres[is_used]

"""The minimum work and the largest batch of a request, compared with direct computation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.trials.work import MinimumWork, largest_batches


@dataclass(frozen=True)
class Uniform:
    """Uniformly distributed batch times, with two bounds by batch size."""

    between_s: Mapping[int, tuple[float, float]]

    def quantile_s(self, size: int, u: float) -> float:
        low, high = self.between_s[size]
        return low + (high - low) * u


def test_a_sample_of_a_larger_batch_needs_its_share_of_the_work() -> None:
    work = MinimumWork(Uniform({1: (0.01, 0.01), 2: (0.014, 0.014), 3: (0.03, 0.03)}), 3)

    per_sample_s = work.per_sample_s(0.02)

    assert per_sample_s == pytest.approx([0.01, 0.007, np.inf], rel=1e-5)


def test_wasted_work_is_added_to_that_of_a_success() -> None:
    work = MinimumWork(Uniform({1: (0.01, 0.03)}), 1)

    # E[min(D, t)] / P(D <= t) is 20 ms when t is 30 ms, and more for any earlier t
    assert work.per_sample_s(0.04)[0] == pytest.approx(0.02, rel=0.01)
    assert work.per_sample_s(0.02)[0] == pytest.approx(0.0175 / 0.5, rel=0.01)
    assert work.per_sample_s(0.02)[0] <= 0.0175 / 0.5


def test_the_success_probability_is_that_of_the_distribution() -> None:
    work = MinimumWork(Uniform({1: (0.01, 0.03)}), 1)

    success_probabilities = [
        work.success_probabilities(time_s)[0] for time_s in (0.009, 0.01, 0.015, 0.03)
    ]

    assert success_probabilities == pytest.approx([0, 0, 0.25, 1], abs=2e-6)


def test_a_faster_larger_batch_can_be_reached_by_padding() -> None:
    work = MinimumWork(Uniform({1: (0.01, 0.01), 2: (0.008, 0.008)}), 2)

    assert list(work.shortest_s) == [0.008, 0.008]
    assert work.success_probabilities(0.009) == pytest.approx([1, 1])
    assert work.per_sample_s(0.009) == pytest.approx([0.008, 0.004], rel=1e-5)


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 12), st.integers(1, 2)),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.integers(1, 10), min_size=4, max_size=4),
)
def test_the_largest_batch_has_as_many_samples_as_have_a_common_start(
    requests: list[tuple[int, int, int]], shortest: list[int]
) -> None:
    requests.sort()
    shortest.sort()
    starts, spans, sizes = (np.array(column) for column in zip(*requests, strict=True))

    largest = largest_batches(
        starts.astype(float), spans.astype(float), sizes, np.array(shortest, float)
    )

    for index, (start, span, _) in enumerate(requests):
        sizes_in_common = [
            batch
            for batch, takes in enumerate(shortest, start=1)
            for at in range(start, start + span - takes + 1)
            if sum(s for a, d, s in requests if a <= at <= a + d - takes) >= batch
        ]
        assert largest[index] == max(sizes_in_common, default=0)

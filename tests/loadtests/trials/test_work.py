"""The least work and the largest batch of a request, against arithmetic and counting."""

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
    """Batch times that are uniform between two bounds, by batch size."""

    between_s: Mapping[int, tuple[float, float]]

    def quantile_s(self, size: int, u: float) -> float:
        low, high = self.between_s[size]
        return low + (high - low) * u


def test_a_sample_of_a_larger_batch_takes_its_part_of_the_work() -> None:
    least = MinimumWork(Uniform({1: (0.01, 0.01), 2: (0.014, 0.014), 3: (0.03, 0.03)}), 3)

    per_sample_s = least.per_sample_s(0.02)

    assert per_sample_s == pytest.approx([0.01, 0.007, np.inf], rel=1e-5)


def test_work_in_vain_is_added_to_that_of_a_success() -> None:
    least = MinimumWork(Uniform({1: (0.01, 0.03)}), 1)

    # E[min(D, t)] / P(D <= t) is 20 ms when t is 30 ms, and more for any earlier t
    assert least.per_sample_s(0.04)[0] == pytest.approx(0.02, rel=0.01)
    assert least.per_sample_s(0.02)[0] == pytest.approx(0.0175 / 0.5, rel=0.01)
    assert least.per_sample_s(0.02)[0] <= 0.0175 / 0.5


def test_the_chance_to_be_in_time_is_that_of_the_distribution() -> None:
    least = MinimumWork(Uniform({1: (0.01, 0.03)}), 1)

    success_probabilities = [
        least.success_probabilities(time_s)[0] for time_s in (0.009, 0.01, 0.015, 0.03)
    ]

    assert success_probabilities == pytest.approx([0, 0, 0.25, 1], abs=2e-6)


def test_a_larger_batch_that_was_measured_quicker_may_be_had_by_padding() -> None:
    least = MinimumWork(Uniform({1: (0.01, 0.01), 2: (0.008, 0.008)}), 2)

    assert list(least.shortest_s) == [0.008, 0.008]
    assert least.success_probabilities(0.009) == pytest.approx([1, 1])
    assert least.per_sample_s(0.009) == pytest.approx([0.008, 0.004], rel=1e-5)


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 12), st.integers(1, 2)),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.integers(1, 10), min_size=4, max_size=4),
)
def test_a_batch_is_as_large_as_there_are_samples_with_a_common_start(
    requests: list[tuple[int, int, int]], shortest: list[int]
) -> None:
    requests.sort()
    shortest.sort()
    starts, spans, sizes = (np.array(column) for column in zip(*requests, strict=True))

    found = largest_batches(
        starts.astype(float), spans.astype(float), sizes, np.array(shortest, float)
    )

    for place, (start, span, _) in enumerate(requests):
        together = [
            batch
            for batch, takes in enumerate(shortest, start=1)
            for at in range(start, start + span - takes + 1)
            if sum(s for a, d, s in requests if a <= at <= a + d - takes) >= batch
        ]
        assert found[place] == max(together, default=0)

from __future__ import annotations

import pytest

from serving.admission import time_needed_s
from serving.policy.situation import Candidate


def variant(slots: int = 1, free_in_s: float = 0.0) -> Candidate:
    """Takes 1 ms, and 0.1 ms for each sample: 2.6 ms for 16, 4.2 ms for 32, 7.4 ms for 64."""

    def predict_s(size: int) -> float:
        return 0.001 + 0.0001 * size

    return Candidate("any", slots, int(not free_in_s), free_in_s, 64, predict_s, predict_s)


@pytest.mark.parametrize(
    ("candidates", "ahead", "size", "left_s", "needed_s"),
    [
        pytest.param([variant()], 0, 1, 0.100, 0.0074, id="nobody ahead: one large batch"),
        pytest.param([variant()], 0, 1, 0.010, 0.0042, id="little time: a batch of half of it"),
        pytest.param([variant()], 0, 1, 0.001, 0.0011, id="hardly any: alone"),
        pytest.param([variant()], 0, 32, 0.001, 0.0042, id="never less than the request itself"),
        pytest.param([variant()], 64, 1, 0.100, 2 * 0.0074, id="one batch ahead"),
        pytest.param([variant()], 65, 1, 0.100, 3 * 0.0074, id="just missed: the whole next one"),
        pytest.param([variant(free_in_s=0.005)], 0, 1, 0.100, 0.0124, id="busy"),
        pytest.param([variant(slots=2)], 128, 1, 0.100, 2 * 0.0074, id="two slots, two batches"),
        pytest.param(
            [variant(free_in_s=0.005), variant()], 128, 1, 0.1, 2 * 0.0074, id="two variants"
        ),
    ],
)
def test_time_needed(
    candidates: list[Candidate], ahead: float, size: int, left_s: float, needed_s: float
) -> None:
    assert time_needed_s(candidates, ahead, size, left_s) == pytest.approx(needed_s)

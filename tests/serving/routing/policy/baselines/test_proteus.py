from __future__ import annotations

import math

import pytest

from serving.routing.policy.baselines.proteus import proteus
from tests.serving.routing.policy.states import (
    BUSY_DENSE,
    DENSE,
    INT8,
    PRUNED,
    chooser,
    lane,
    variant_state,
)

choose = chooser(proteus)

# Batches within half of an SLO of 40 ms: dense 8 samples in 17 ms (471/s), pruned 32 in 19.5 ms
# (1,641/s), int8 64 in 8.3 ms (7,711/s).


@pytest.mark.parametrize(
    ("arrivals_per_s", "expected"),
    [
        pytest.param(470, ("dense", 8), id="the best variant for the rate"),
        pytest.param(472, ("pruned", 32), id="too many for the best"),
        pytest.param(1642, ("int8", 64), id="too many for the next"),
        pytest.param(9999, ("int8", 64), id="too many for all: the highest throughput"),
    ],
)
def test_the_rate_determines_the_variant(arrivals_per_s: float, expected: object) -> None:
    full = [lane(*[0.040] * 64)]
    assert choose(full, DENSE, PRUNED, INT8, arrivals_per_s=arrivals_per_s) == expected


def test_slots_multiply_the_throughput() -> None:
    two = variant_state("dense", 0.010, 0.001, slots=2)
    assert choose([lane(*[0.040] * 64)], two, PRUNED, arrivals_per_s=940) == ("dense", 8)


def test_a_variant_slower_than_half_of_the_slo_is_the_last_resort() -> None:
    assert choose([lane(*[0.018] * 64)], DENSE, INT8) == ("int8", 64)
    assert choose([lane(0.018, 0.018)], DENSE) == ("dense", 1)


@pytest.mark.parametrize(
    ("due", "arrived", "queued", "expected"),
    [
        pytest.param(0.040, 0.0, 3, ("wait", pytest.approx(0.027)), id="wait: 4 would take 13 ms"),
        pytest.param(
            0.0131, -0.0269, 3, ("wait", pytest.approx(0.0001)), id="just before the window closes"
        ),
        pytest.param(0.0130, -0.0270, 3, ("dense", 3), id="the window closes"),
        pytest.param(0.040, 0.0, 8, ("dense", 8), id="full: no wait"),
        pytest.param(0.0105, -0.0295, 3, ("dense", 1), id="too late for all of the requests"),
        pytest.param(math.inf, 0.0, 3, ("dense", 3), id="no deadline: no wait"),
    ],
)
def test_the_window_closes_when_one_more_request_would_make_the_first_late(
    due: float, arrived: float, queued: int, expected: object
) -> None:
    assert choose([lane(*[due] * queued, arrived=arrived)], DENSE, INT8) == expected


def test_a_full_batch_waits_for_a_slot() -> None:
    assert choose([lane(*[0.040] * 8)], BUSY_DENSE) == ("wait", 0.005)

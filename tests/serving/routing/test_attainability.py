from __future__ import annotations

import math

import pytest

from serving.routing.attainability import attainable_variants, lane_key
from serving.routing.policy.state import LaneKey
from serving.routing.slo import Slo

VARIANTS = ("dense", "int8")


@pytest.mark.parametrize(
    ("slo", "expected"),
    [
        pytest.param(
            Slo(),
            LaneKey(VARIANTS, fastest_first=False, has_deadline=False),
            id="no deadline",
        ),
        pytest.param(
            Slo(latency_s=0.02),
            LaneKey(VARIANTS, fastest_first=False, has_deadline=True),
            id="a deadline",
        ),
        pytest.param(
            Slo(latency_s=0.02, objective="latency"),
            LaneKey(VARIANTS, fastest_first=True, has_deadline=True),
            id="the objective latency",
        ),
        pytest.param(
            Slo(latency_s=0.02, objective="cost"),
            LaneKey(VARIANTS, cheapest_first=True, has_deadline=True),
            id="the objective cost",
        ),
    ],
)
def test_the_lane_follows_from_the_slo(slo: Slo, expected: LaneKey) -> None:
    assert lane_key(VARIANTS, slo) == expected


def test_requests_that_cannot_share_a_batch_have_different_lanes() -> None:
    short, long = (lane_key(VARIANTS, Slo(), signature=(("x", (n,)),)) for n in (4, 5))
    assert short != long


def best_case_s(variant: str, size: int) -> float:
    return {"dense": 0.010, "int8": 0.002}[variant] * size


@pytest.mark.parametrize(
    ("size", "latency_s", "expected"),
    [
        pytest.param(1, math.inf, ["dense", "int8"], id="without a deadline: all"),
        pytest.param(1, 0.010, ["dense", "int8"], id="exactly in time"),
        pytest.param(1, 0.009, ["int8"], id="too soon for one"),
        pytest.param(4, 0.010, ["int8"], id="a larger request takes longer"),
        pytest.param(1, 0.001, [], id="too soon for all"),
    ],
)
def test_a_variant_is_attainable_if_it_is_in_time_when_idle(
    size: int, latency_s: float, expected: list[str]
) -> None:
    assert list(attainable_variants(VARIANTS, size, latency_s, best_case_s)) == expected

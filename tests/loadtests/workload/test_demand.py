from __future__ import annotations

import pytest

from loadtests.workload.demand import parse_demand
from tests.loadtests.workload.profiles import PROFILES

DENSE_PER_S = 8 / 0.020
"""Capacity of dense at its best batch size, by the median."""


def test_a_load_is_in_samples_relative_to_the_capacity_of_dense_on_all_cores() -> None:
    slos = ("name=one,share=3,latency_ms=5", "name=three,share=1,size=3,latency_ms=5")
    demand = parse_demand("uniform", slos, load=0.5, requests=600, profiles=PROFILES, cores=2)
    assert demand.rate_per_s == pytest.approx(0.5 * 2 * DENSE_PER_S / 1.5), (
        "1.5 samples per request"
    )
    assert demand.seconds == pytest.approx(600 / demand.rate_per_s)
    assert demand.load == 0.5
    assert len(demand.draw(0)) in (599, 600, 601)


def test_a_rate_requires_no_profiles() -> None:
    demand = parse_demand("gamma:cv2=4", ["latency_ms=5"], rate_per_s=50.0, seconds=4.0)
    assert (demand.rate_per_s, demand.seconds, demand.load) == (50.0, 4.0, None)
    assert demand.draw(3).arrivals_s.tolist() == demand.draw(3).arrivals_s.tolist()
    assert demand.draw(3).arrivals_s.tolist() != demand.draw(4).arrivals_s.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 1.0}, "--load or --rate"),
        ({"seconds": 1.0, "load": 1.0, "rate_per_s": 1.0}, "--load or --rate"),
        ({"rate_per_s": 1.0}, "--seconds or --requests"),
        ({"rate_per_s": 1.0, "seconds": 1.0, "requests": 1}, "--seconds or --requests"),
        ({"load": 1.0, "seconds": 1.0}, "requires a catalog"),
        ({"rate_per_s": -1.0, "seconds": 1.0}, "a number above 0, got -1"),
    ],
)
def test_missing_and_conflicting_options_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_demand("poisson", [], **options)  # type: ignore[arg-type]


def test_a_changing_rate_requires_a_duration() -> None:
    arrivals = "acceleration:to=2,per_s=0.5,cv2=8"
    assert parse_demand(arrivals, [], rate_per_s=9.0, seconds=4.0).seconds == 4
    with pytest.raises(
        ValueError, match="acceleration requires a duration, because its rate changes: --s"
    ):
        parse_demand(arrivals, [], rate_per_s=9.0, requests=36)

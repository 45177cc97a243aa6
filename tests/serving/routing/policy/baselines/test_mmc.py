from __future__ import annotations

import math

import pytest

from serving.routing.policy.baselines.mmc import erlang_c_wait_s, mmc
from tests.serving.routing.policy.states import (
    BUSY_DENSE,
    DENSE,
    INT8,
    PRUNED,
    chooser,
    lane,
    variant_state,
)

choose = chooser(mmc)


@pytest.mark.parametrize(
    ("arrivals_per_s", "service_s", "servers", "expected"),
    [
        pytest.param(0.5, 1.0, 1, 1.0, id="M/M/1: rho / (1 - rho) services"),
        pytest.param(1.0, 1.0, 2, 1 / 3, id="M/M/2 at half load"),
        pytest.param(2.0, 1.0, 3, 4 / 9, id="M/M/3 at 2 Erlang: 44 % wait, for a service"),
        pytest.param(0.0, 1.0, 4, 0.0, id="no arrivals"),
        pytest.param(4.0, 1.0, 4, math.inf, id="as many arrivals as it can serve"),
    ],
)
def test_the_erlang_c_wait_matches_known_values(
    arrivals_per_s: float, service_s: float, servers: int, expected: float
) -> None:
    assert erlang_c_wait_s(arrivals_per_s, service_s, servers) == pytest.approx(expected)


# Within half of an SLO of 40 ms, dense runs batches of 8, which take 17 ms. Its M/M/1 wait is the
# remaining 23 ms at a load of 23/40 = 0.575: 270.6 samples/s.


@pytest.mark.parametrize(
    ("arrivals_per_s", "expected"),
    [
        pytest.param(270, "dense", id="the wait and the service fit"),
        pytest.param(271, "pruned", id="they do not fit: the next variant"),
        pytest.param(99999, "int8", id="no variant fits: the fastest"),
    ],
)
def test_the_rate_determines_the_variant(arrivals_per_s: float, expected: str) -> None:
    light = [lane(0.040)]
    assert choose(light, DENSE, PRUNED, INT8, arrivals_per_s=arrivals_per_s) == (expected, 1)


@pytest.mark.parametrize(
    ("queued", "slots", "expected"),
    [
        pytest.param(16, 1, ("dense", 16), id="two batches: the second in 34 ms"),
        pytest.param(17, 1, ("pruned", 17), id="a third batch is too many"),
        pytest.param(24, 2, ("dense", 24), id="two slots: three batches fit"),
    ],
)
def test_the_backlog_counts_at_any_rate(queued: int, slots: int, expected: object) -> None:
    dense = variant_state("dense", 0.010, 0.001, slots=slots)
    assert choose([lane(*[0.040] * queued)], dense, PRUNED, INT8) == expected


def test_a_running_batch_is_part_of_the_backlog() -> None:
    assert choose([lane(0.040)], BUSY_DENSE, PRUNED) == ("wait", 0.005)
    longer = variant_state("dense", 0.010, 0.001, busy_s=0.024)
    assert choose([lane(0.040)], longer, PRUNED) == ("pruned", 1)


def test_the_head_must_be_in_time() -> None:
    assert choose([lane(0.009, arrived=-0.031)], DENSE, PRUNED) == ("pruned", 1)


def test_without_a_deadline_the_best_variant_is_used() -> None:
    assert choose([lane(math.inf)], DENSE, INT8, arrivals_per_s=99999) == ("dense", 1)

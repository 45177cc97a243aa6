from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.routing.admission import lateness_s
from serving.routing.policy.state import VariantState
from tests.serving.routing.policy.states import variant_state

# A batch takes 1 ms and 0.1 ms for each sample: 2.6 ms for 16, 4.2 ms for 32, 7.4 ms for 64.
ONE = variant_state("one", 0.0011, 0.0001)
TWIN = variant_state("twin", 0.0011, 0.0001)
BUSY = variant_state("busy", 0.0011, 0.0001, busy_s=0.005)
DOUBLE = variant_state("double", 0.0011, 0.0001, slots=2)
SLOW = variant_state("slow", 0.011, 0.001)


@pytest.mark.parametrize(
    ("variants", "ahead", "size", "left_s", "cores", "is_in_time"),
    [
        pytest.param([ONE], 0, 1, 0.0011, 1, True, id="an empty queue: just in time"),
        pytest.param([ONE], 0, 1, 0.0010, 1, False, id="an empty queue: too late"),
        pytest.param([ONE], 0, 64, 0.0073, 1, False, id="too large for its time"),
        pytest.param([ONE], 31, 1, 0.0043, 1, True, id="all samples in one batch"),
        pytest.param([ONE], 127, 1, 0.020, 1, True, id="two full batches"),
        pytest.param([ONE], 192, 1, 0.020, 1, False, id="a third batch is too many"),
        pytest.param([BUSY], 0, 1, 0.0062, 1, True, id="the slot is free in time"),
        pytest.param([BUSY], 0, 1, 0.0060, 1, False, id="the slot is free too late"),
        pytest.param([ONE], 255, 1, 0.020, 1, False, id="four batches one after another"),
        pytest.param([DOUBLE], 255, 1, 0.020, 2, True, id="two slots"),
        pytest.param([DOUBLE], 255, 1, 0.020, 1, False, id="two slots on one core"),
        pytest.param([ONE, TWIN], 255, 1, 0.020, 2, True, id="two variants share the work"),
        pytest.param([ONE, TWIN], 255, 1, 0.020, 1, False, id="two variants on one core"),
        pytest.param([SLOW, ONE], 127, 1, 0.020, 1, True, id="the faster variant gets the core"),
        pytest.param([SLOW], 127, 1, 0.020, 1, False, id="the slower variant alone is too late"),
    ],
)
def test_a_request_is_in_time_or_late(
    variants: list[VariantState],
    ahead: float,
    size: int,
    left_s: float,
    cores: float,
    is_in_time: bool,
) -> None:
    assert (lateness_s(variants, ahead, size, left_s, cores) <= 1e-9) is is_in_time


def test_the_lateness_is_about_the_time_to_serve_the_excess_samples() -> None:
    # Full batches of 64 take 7.4 ms, so 640 samples take 74 ms, and 20 ms are left.
    late_s = lateness_s([ONE], 639, 1, 0.020, 1)
    assert late_s == pytest.approx(0.074 - 0.020, abs=0.0074)


variant_states_ = st.lists(
    st.builds(
        variant_state,
        st.just("any"),
        st.floats(1e-4, 0.05),
        st.floats(1e-6, 1e-3),
        slots=st.integers(1, 3),
        busy_s=st.sampled_from([0.0, 0.001, 0.02]),
    ),
    min_size=1,
    max_size=4,
)


@given(
    variant_states_, st.integers(0, 500), st.integers(1, 64), st.floats(0.001, 1), st.integers(1, 4)
)
@example([variant_state("any", 0.03125, 0.001, slots=2)], 0, 2, 0.03125, 2)
@example([variant_state("any", 0.03125, 0.001)] * 2, 0, 2, 0.03125, 2)
def test_lateness_agrees_with_the_time_of_the_request_alone(
    variants: list[VariantState], ahead: int, size: int, left_s: float, cores: int
) -> None:
    alone_s = min(each.free_in_s + each.times.typical_s(size) for each in variants)
    if alone_s <= left_s:
        assert lateness_s(variants, 0, size, left_s, cores) <= 0
    late_s = lateness_s(variants, ahead, size, left_s, cores)
    assert not math.isnan(late_s)
    if alone_s > left_s:
        assert late_s > 0

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from serving.routing.policy.baselines.fifo import fifo
from serving.routing.policy.state import VariantState
from tests.serving.routing.policy.states import BUSY_DENSE, DENSE, INT8, chooser, lane

choose = chooser(fifo)


@pytest.mark.parametrize(
    ("deadlines", "variants", "expected"),
    [
        pytest.param([0.020] * 40, [DENSE, INT8], ("dense", 40), id="all queued requests"),
        pytest.param([0.020] * 90, [DENSE, INT8], ("dense", 64), id="up to the largest batch"),
        pytest.param([-1.0], [DENSE, INT8], ("dense", 1), id="late: computed anyway"),
        pytest.param([-1.0], [BUSY_DENSE, INT8], ("wait", 0.005), id="late and busy: wait"),
        pytest.param([math.inf], [INT8], ("int8", 1), id="no live replica: the next variant"),
        pytest.param([-1.0], [], "drop", id="late and no live replica"),
    ],
)
def test_choice(
    deadlines: Sequence[float], variants: Sequence[VariantState], expected: object
) -> None:
    assert choose([lane(*deadlines)], *variants) == expected


def test_the_lane_that_arrived_first_is_served_first() -> None:
    old = lane(9.0, arrived=-2.0, signature="old")
    urgent = lane(0.1, 0.1, arrived=-1.0)
    assert choose([urgent, old], DENSE) == ("dense", 1)

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from serving.routing.policy.baselines.max_acc import max_acc
from serving.routing.policy.state import VariantState
from tests.serving.routing.policy.states import (
    BUSY_DENSE,
    DENSE,
    INT8,
    PRUNED,
    chooses,
    lane,
    variant_state,
)

choose = chooses(max_acc)


@pytest.mark.parametrize(
    ("deadlines", "variants", "expected"),
    [
        pytest.param([0.010] * 40, [DENSE, PRUNED, INT8], ("dense", 1), id="accuracy, then batch"),
        pytest.param([0.020] * 40, [DENSE, PRUNED, INT8], ("dense", 8), id="as large as it fits"),
        pytest.param([0.009] * 40, [DENSE, PRUNED, INT8], ("pruned", 8), id="the best in time"),
        pytest.param([0.0015] * 40, [DENSE, PRUNED, INT8], ("int8", 1), id="none: the quickest"),
        pytest.param([0.1], [BUSY_DENSE, PRUNED, INT8], ("pruned", 1), id="the best that is free"),
        pytest.param([0.1], [BUSY_DENSE], ("wait", 0.005), id="none is free"),
        pytest.param([math.inf], [BUSY_DENSE, INT8], ("wait", 0.005), id="no deadline: the best"),
    ],
)
def test_choice(
    deadlines: Sequence[float], variants: Sequence[VariantState], expected: object
) -> None:
    assert choose([lane(*deadlines)], *variants) == expected


def test_where_none_is_in_time_the_quickest_is_tried() -> None:
    lucky = variant_state("dense", 0.010, best_case=0.1)
    assert choose([lane(0.0015)], lucky, INT8) == ("int8", 1)

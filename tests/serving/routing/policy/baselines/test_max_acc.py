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
    chooser,
    lane,
    variant_state,
)

choose = chooser(max_acc)


@pytest.mark.parametrize(
    ("deadlines", "variants", "expected"),
    [
        pytest.param(
            [0.010] * 40, [DENSE, PRUNED, INT8], ("dense", 1), id="accuracy first, then batch size"
        ),
        pytest.param(
            [0.020] * 40, [DENSE, PRUNED, INT8], ("dense", 8), id="the largest batch in time"
        ),
        pytest.param(
            [0.009] * 40, [DENSE, PRUNED, INT8], ("pruned", 8), id="the best variant in time"
        ),
        pytest.param(
            [0.0015] * 40, [DENSE, PRUNED, INT8], ("int8", 1), id="none in time: the fastest"
        ),
        pytest.param([0.1], [BUSY_DENSE, PRUNED, INT8], ("pruned", 1), id="the best free variant"),
        pytest.param([0.1], [BUSY_DENSE], ("wait", 0.005), id="all busy"),
        pytest.param(
            [math.inf], [BUSY_DENSE, INT8], ("wait", 0.005), id="no deadline: the best variant"
        ),
    ],
)
def test_choice(
    deadlines: Sequence[float], variants: Sequence[VariantState], expected: object
) -> None:
    assert choose([lane(*deadlines)], *variants) == expected


def test_the_fastest_variant_is_tried_if_none_is_in_time() -> None:
    lucky = variant_state("dense", 0.010, best_case=0.1)
    assert choose([lane(0.0015)], lucky, INT8) == ("int8", 1)

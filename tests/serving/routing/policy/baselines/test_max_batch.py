from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from serving.routing.policy.baselines.max_batch import max_batch
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

choose = chooses(max_batch)


@pytest.mark.parametrize(
    ("deadlines", "variants", "expected"),
    [
        pytest.param([0.010] * 90, [DENSE, PRUNED, INT8], ("int8", 64), id="batch, then accuracy"),
        pytest.param([0.1] * 90, [DENSE, PRUNED, INT8], ("dense", 64), id="the best for the batch"),
        pytest.param([0.036] * 90, [DENSE, PRUNED, INT8], ("pruned", 64), id="the best in time"),
        pytest.param([0.012] * 3, [DENSE, PRUNED, INT8], ("dense", 3), id="no more than waits"),
        pytest.param([0.0015], [DENSE, PRUNED, INT8], ("int8", 1), id="none: the quickest"),
        pytest.param([0.1], [BUSY_DENSE, PRUNED, INT8], ("pruned", 1), id="the best that is free"),
        pytest.param([0.1], [BUSY_DENSE], ("wait", 0.005), id="none is free"),
        pytest.param([math.inf], [BUSY_DENSE, INT8], ("wait", 0.005), id="no deadline: the best"),
    ],
)
def test_choice(
    deadlines: Sequence[float], variants: Sequence[VariantState], expected: object
) -> None:
    assert choose([lane(*deadlines)], *variants) == expected


def test_a_first_request_that_is_large_counts_whole() -> None:
    """For 3 samples pruned takes 2.3 ms, which is late; for a batch of 2 it would not be."""
    close = variant_state("pruned", 0.0021, 0.0001)
    large = lane(0.00225, 0.00225, sizes=[3, 1])
    assert choose([large], close, INT8) == ("int8", 3)


def test_where_none_is_in_time_the_quickest_is_tried() -> None:
    lucky = variant_state("dense", 0.010, best_case=0.1)
    assert choose([lane(0.0015)], lucky, INT8) == ("int8", 1)

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
    chooser,
    lane,
    variant_state,
)

choose = chooser(max_batch)


@pytest.mark.parametrize(
    ("deadlines", "variants", "expected"),
    [
        pytest.param(
            [0.010] * 90, [DENSE, PRUNED, INT8], ("int8", 64), id="batch size first, then accuracy"
        ),
        pytest.param(
            [0.1] * 90, [DENSE, PRUNED, INT8], ("dense", 64), id="the best variant for the batch"
        ),
        pytest.param(
            [0.036] * 90, [DENSE, PRUNED, INT8], ("pruned", 64), id="the best variant in time"
        ),
        pytest.param(
            [0.012] * 3, [DENSE, PRUNED, INT8], ("dense", 3), id="at most the queued requests"
        ),
        pytest.param([0.0015], [DENSE, PRUNED, INT8], ("int8", 1), id="none in time: the fastest"),
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


def test_a_large_first_request_counts_with_all_its_samples() -> None:
    """Pruned takes 2.3 ms for 3 samples, which is late. A batch of 2 samples would be in time."""
    close = variant_state("pruned", 0.0021, 0.0001)
    large = lane(0.00225, 0.00225, sizes=[3, 1])
    assert choose([large], close, INT8) == ("int8", 3)


def test_the_fastest_variant_is_tried_if_none_is_in_time() -> None:
    lucky = variant_state("dense", 0.010, best_case=0.1)
    assert choose([lane(0.0015)], lucky, INT8) == ("int8", 1)

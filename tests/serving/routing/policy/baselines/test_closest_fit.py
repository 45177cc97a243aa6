from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from serving.routing.policy.baselines.closest_fit import closest_fit
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

choose = chooser(closest_fit)


@pytest.mark.parametrize(
    ("due", "variants", "expected"),
    [
        pytest.param(0.1, [DENSE, PRUNED, INT8], ("dense", 1), id="the slowest variant in time"),
        pytest.param(0.009, [DENSE, PRUNED, INT8], ("pruned", 1), id="closest to the slack"),
        pytest.param(0.003, [DENSE, PRUNED, INT8], ("int8", 1), id="only one is in time"),
        pytest.param(
            0.0015, [DENSE, PRUNED, INT8], ("int8", 1), id="none in time: the fastest is tried"
        ),
        pytest.param(
            0.1,
            [DENSE, variant_state("pruned", 0.050)],
            ("pruned", 1),
            id="slower, although not more accurate",
        ),
        pytest.param(0.1, [BUSY_DENSE, PRUNED, INT8], ("pruned", 1), id="busy: overloaded"),
        pytest.param(0.1, [BUSY_DENSE], ("wait", 0.005), id="all busy"),
        pytest.param(math.inf, [DENSE, INT8], ("dense", 1), id="no deadline: the best variant"),
        pytest.param(
            math.inf, [BUSY_DENSE, INT8], ("wait", 0.005), id="no deadline: no other variant"
        ),
    ],
)
def test_choice(due: float, variants: Sequence[VariantState], expected: object) -> None:
    assert choose([lane(due)], *variants) == expected


def test_the_first_request_determines_the_variant_and_its_slack_the_batch() -> None:
    assert choose([lane(*[0.020] * 40)], DENSE, INT8) == ("dense", 8)


def test_the_accuracy_limit_holds() -> None:
    assert choose([lane(0.009, variants=["dense", "int8"])], DENSE, PRUNED, INT8) == ("int8", 1)


def test_the_fastest_variant_is_tried_if_none_is_in_time() -> None:
    lucky = variant_state("dense", 0.010, best_case=0.1)
    assert choose([lane(0.0015)], lucky, INT8) == ("int8", 1)

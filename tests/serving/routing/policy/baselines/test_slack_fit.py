from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from serving.routing.policy.baselines.slack_fit import slack_fit
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

choose = chooses(slack_fit)


@pytest.mark.parametrize(
    ("deadlines", "variants", "expected"),
    [
        pytest.param([0.1], [DENSE, PRUNED, INT8], ("dense", 1), id="much slack: accuracy"),
        pytest.param(
            # Buckets are 1.11 ms wide, from 2 ms on. In the highest below 9 ms (7.55 to 8.66):
            # pruned at 8 (7.5) is just below it, int8 at 64 (8.3) in it.
            [0.009] * 90,
            [DENSE, PRUNED, INT8],
            ("int8", 64),
            id="little slack: a large batch",
        ),
        pytest.param(
            # dense at 2 takes 11 ms, in the bucket up to 11.98; pruned at 16 takes 11.5: as well.
            [0.0119] * 16,
            [DENSE, PRUNED, INT8],
            ("pruned", 16),
            id="in a bucket: the largest batch",
        ),
        pytest.param(
            # dense at 8 takes 17 ms; eight times as wide, a bucket would hold pruned at 16 as well.
            [0.018] * 90,
            [DENSE, PRUNED, INT8],
            ("dense", 8),
            id="but only in the bucket closest to the slack",
        ),
        pytest.param([0.0119] * 4, [DENSE, PRUNED, INT8], ("dense", 2), id="that can be filled"),
        pytest.param([0.003], [DENSE, PRUNED, INT8], ("int8", 1), id="only one is in time"),
        pytest.param([0.0015], [DENSE, PRUNED, INT8], ("int8", 1), id="none: the quickest"),
        pytest.param([0.1], [BUSY_DENSE, PRUNED, INT8], ("pruned", 1), id="what is free"),
        pytest.param([0.1], [BUSY_DENSE], ("wait", 0.005), id="none is free"),
        pytest.param([math.inf], [BUSY_DENSE, INT8], ("wait", 0.005), id="no deadline: the best"),
    ],
)
def test_choice(
    deadlines: Sequence[float], variants: Sequence[VariantState], expected: object
) -> None:
    assert choose([lane(*deadlines)], *variants) == expected


def test_where_batch_and_bucket_are_the_same_the_better_is_taken() -> None:
    close = variant_state("pruned", 0.0101, 0.001)
    assert choose([lane(0.1)], DENSE, close) == ("dense", 1)


def test_a_request_larger_than_every_batch_is_sent_alone() -> None:
    """It takes dense 109 ms; the largest batch, 73."""
    assert choose([lane(0.2, 0.2, sizes=[100, 1])], DENSE, INT8) == ("dense", 100)
    assert choose([lane(0.08, 0.08, sizes=[100, 1])], DENSE, INT8) == ("int8", 100)


def test_a_first_request_that_is_large_counts_whole() -> None:
    """Of 3 samples: 12 ms on dense, which is late; a batch of 2 would not have been."""
    assert choose([lane(0.0115, 0.0115, sizes=[3, 1])], DENSE, PRUNED) == ("pruned", 4)


def test_one_variant_with_one_batch_size_has_one_bucket() -> None:
    assert choose([lane(0.1, 0.1)], variant_state("dense", 0.010, max_batch=1)) == ("dense", 1)


def test_where_none_is_in_time_the_quickest_is_tried() -> None:
    lucky = variant_state("dense", 0.010, best_case=0.1)
    assert choose([lane(0.0015)], lucky, INT8) == ("int8", 1)

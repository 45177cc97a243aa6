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
    chooser,
    lane,
    variant_state,
)

choose = chooser(slack_fit)


@pytest.mark.parametrize(
    ("deadlines", "variants", "expected"),
    [
        pytest.param([0.1], [DENSE, PRUNED, INT8], ("dense", 1), id="much slack: accuracy"),
        pytest.param(
            # Buckets are 1.11 ms wide and start at 2 ms. The highest one below 9 ms is 7.55 to
            # 8.66 ms: int8 at 64 (8.3 ms) is in it, pruned at 8 (7.5 ms) is just below it.
            [0.009] * 90,
            [DENSE, PRUNED, INT8],
            ("int8", 64),
            id="little slack: a large batch",
        ),
        pytest.param(
            # dense at 2 (11 ms) and pruned at 16 (11.5 ms) are in the same bucket, up to 11.98 ms.
            [0.0119] * 16,
            [DENSE, PRUNED, INT8],
            ("pruned", 16),
            id="the largest batch of a bucket",
        ),
        pytest.param(
            # dense at 8 takes 17 ms. In buckets that are eight times as wide, pruned at 16 would be
            # in the same bucket.
            [0.018] * 90,
            [DENSE, PRUNED, INT8],
            ("dense", 8),
            id="only the bucket closest to the slack",
        ),
        pytest.param(
            [0.0119] * 4, [DENSE, PRUNED, INT8], ("dense", 2), id="at most the queued requests"
        ),
        pytest.param([0.003], [DENSE, PRUNED, INT8], ("int8", 1), id="only one variant is in time"),
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


def test_of_equal_batches_in_a_bucket_the_better_variant_is_taken() -> None:
    close = variant_state("pruned", 0.0101, 0.001)
    assert choose([lane(0.1)], DENSE, close) == ("dense", 1)


def test_a_request_larger_than_the_largest_batch_is_sent_alone() -> None:
    """Dense takes 109 ms for it, and 73 ms for the largest batch."""
    assert choose([lane(0.2, 0.2, sizes=[100, 1])], DENSE, INT8) == ("dense", 100)
    assert choose([lane(0.08, 0.08, sizes=[100, 1])], DENSE, INT8) == ("int8", 100)


def test_a_large_first_request_counts_with_all_its_samples() -> None:
    """Dense takes 12 ms for 3 samples, which is late. A batch of 2 samples would be in time."""
    assert choose([lane(0.0115, 0.0115, sizes=[3, 1])], DENSE, PRUNED) == ("pruned", 4)


def test_one_variant_with_one_batch_size_has_one_bucket() -> None:
    assert choose([lane(0.1, 0.1)], variant_state("dense", 0.010, max_batch=1)) == ("dense", 1)


def test_the_fastest_variant_is_tried_if_none_is_in_time() -> None:
    lucky = variant_state("dense", 0.010, best_case=0.1)
    assert choose([lane(0.0015)], lucky, INT8) == ("int8", 1)

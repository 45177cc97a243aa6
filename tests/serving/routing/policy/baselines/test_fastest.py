from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from serving.routing.policy.baselines.fastest import fastest
from serving.routing.policy.state import VariantState
from tests.serving.routing.policy.states import DENSE, INT8, PRUNED, chooser, lane, variant_state

choose = chooser(fastest)
FLAT = variant_state("flat", 0.006)
"""Slower than INT8 for one sample, faster for many: 6.0 ms against 8.3 for 64."""


@pytest.mark.parametrize(
    ("deadlines", "variants", "expected"),
    [
        pytest.param([1.0], [DENSE, PRUNED, INT8], ("int8", 1), id="with any amount of time"),
        pytest.param([math.inf], [DENSE, INT8], ("int8", 1), id="without a deadline"),
        pytest.param([1.0] * 90, [DENSE, INT8], ("int8", 64), id="the largest batch"),
        pytest.param(
            [0.004] * 90, [DENSE, INT8], ("int8", 16), id="the largest batch that is in time"
        ),
        pytest.param(
            [0.004] * 90,
            [variant_state("dense", 0.003, 0.002), INT8],
            ("int8", 16),
            id="per sample: 3.5 ms for 16 is faster than 3 for one",
        ),
        pytest.param([1.0], [INT8, FLAT], ("flat", 1), id="per sample, in large batches"),
        pytest.param(
            [0.005],
            [INT8, variant_state("flat", 0.006)],
            ("int8", 1),
            id="among the variants in time",
        ),
        pytest.param(
            [1.0],
            [DENSE, variant_state("int8", 0.002, busy_s=0.003)],
            ("wait", 0.003),
            id="busy: wait",
        ),
    ],
)
def test_choice(
    deadlines: Sequence[float], variants: Sequence[VariantState], expected: object
) -> None:
    names = [variant.name for variant in variants]
    assert choose([lane(*deadlines, variants=names)], *variants) == expected


def test_the_accuracy_limit_holds() -> None:
    assert choose([lane(1.0, variants=["dense", "pruned"])], DENSE, PRUNED, INT8) == ("pruned", 1)

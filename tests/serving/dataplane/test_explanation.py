from __future__ import annotations

import pytest

from serving.dataplane.explanation import Reasons
from serving.experiment.assignment import Arm
from serving.routing.policy import POLICIES
from serving.routing.slo import Slo

ANY = ("dense", "int8")

REASONS = Reasons({"dense": 0.9, "pruned": 0.9, "sparse": 0.88, "int8": 0.88})
"""Dense and pruned count as equally accurate, and so do sparse and int8."""


@pytest.mark.parametrize(
    ("code", "variant", "slo", "expected"),
    [
        pytest.param(
            "preferred", "dense", Slo(), "most accurate variant that qualifies", id="best"
        ),
        pytest.param(
            "in time",
            "int8",
            Slo(),
            "most accurate variant that meets the deadline; too slow now or unavailable: dense",
            id="degraded",
        ),
        pytest.param(
            "preferred",
            "int8",
            Slo(objective="latency"),
            "fastest variant that qualifies",
            id="objective latency",
        ),
        pytest.param(
            "behind",
            "int8",
            Slo(),
            "the queue is behind: the variant that answers most queued requests in time",
            id="behind",
        ),
        pytest.param(
            "at risk",
            "int8",
            Slo(),
            "the deadline is at risk: the variant that is most likely to meet it",
            id="at risk",
        ),
        pytest.param("max_acc", "int8", Slo(), "chosen by the policy max_acc", id="a baseline"),
        pytest.param("max_acc", "int8", Slo(variant="int8"), "pinned by the request", id="pinned"),
    ],
)
def test_the_reason_describes_the_code(code: str, variant: str, slo: Slo, expected: str) -> None:
    assert REASONS.reason(code, variant, slo, ANY, None) == expected


@pytest.mark.parametrize(
    ("code", "variant", "slo", "expected"),
    [
        pytest.param(
            "preferred",
            "pruned",
            Slo(),
            "most accurate variant that qualifies; "
            "counts as equally accurate, but slower now or unavailable: dense",
            id="the first of the best",
        ),
        pytest.param(
            "preferred",
            "dense",
            Slo(),
            "most accurate variant that qualifies; "
            "counts as equally accurate, but slower now or unavailable: pruned",
            id="the second of the best: the first is not more accurate",
        ),
        pytest.param(
            "in time",
            "sparse",
            Slo(),
            "most accurate variant that meets the deadline; "
            "counts as equally accurate, but slower now or unavailable: int8; "
            "too slow now or unavailable: pruned, dense",
            id="one of the second best",
        ),
        pytest.param(
            "preferred",
            "pruned",
            Slo(objective="cost"),
            "cheapest variant that qualifies",
            id="objective cost: accuracies do not matter",
        ),
        pytest.param(
            "in time",
            "dense",
            Slo(objective="cost"),
            "cheapest variant that meets the deadline; too slow now or unavailable: pruned",
            id="objective cost: an equally accurate variant is not equally cheap",
        ),
    ],
)
def test_the_reason_names_the_variants_that_count_as_equally_accurate(
    code: str, variant: str, slo: Slo, expected: str
) -> None:
    qualifying = ("pruned", "dense", "int8", "sparse")
    assert REASONS.reason(code, variant, slo, qualifying, None) == expected


def test_an_arm_with_a_fixed_target_is_the_reason_for_every_code() -> None:
    arm = Arm(name="treatment", target="int8", weight=1)
    reason = REASONS.reason("in time", "int8", Slo(), ("int8",), arm)
    assert reason == "arm treatment of the experiment"


@pytest.mark.parametrize("policy", POLICIES)
def test_the_name_of_every_policy_is_a_valid_code(policy: str) -> None:
    assert REASONS.reason(policy, "dense", Slo(), ANY, None) == f"chosen by the policy {policy}"

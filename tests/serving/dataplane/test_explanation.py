from __future__ import annotations

import pytest

from serving.dataplane.explanation import reason
from serving.experiment.assignment import Arm
from serving.routing.policy import POLICIES
from serving.routing.slo import Slo

ANY = ("dense", "int8")


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
        pytest.param(
            "exploring",
            "int8",
            Slo(),
            "tried to measure its current latency: it was not used recently",
            id="exploring",
        ),
        pytest.param("max_acc", "int8", Slo(), "chosen by the policy max_acc", id="a baseline"),
        pytest.param("max_acc", "int8", Slo(variant="int8"), "pinned by the request", id="pinned"),
    ],
)
def test_the_reason_describes_the_code(code: str, variant: str, slo: Slo, expected: str) -> None:
    assert reason(code, variant, slo, ANY, None) == expected


def test_an_arm_with_a_fixed_target_is_the_reason_for_every_code() -> None:
    arm = Arm(name="treatment", target="int8", weight=1)
    assert reason("in time", "int8", Slo(), ("int8",), arm) == "arm treatment of the experiment"


@pytest.mark.parametrize("policy", POLICIES)
def test_the_name_of_every_policy_is_a_valid_code(policy: str) -> None:
    assert reason(policy, "dense", Slo(), ANY, None) == f"chosen by the policy {policy}"

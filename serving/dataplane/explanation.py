"""Why this variant? The words in an answer, from the policy's short reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from serving.experiment.assignment import ROUTER, Arm
from serving.routing.slo import Objective, Slo

BEST: Final[Mapping[Objective, str]] = {
    "accuracy": "most accurate",
    "latency": "fastest",
    "cost": "cheapest",
}


def reason(code: str, variant: str, slo: Slo, qualifying: Sequence[str], arm: Arm | None) -> str:
    """Say in words why `variant` answered, of those that qualify, best first.

    `code` is `Dispatch.reason`; a batch has one, its requests may differ in what they qualify for.
    """
    if slo.variant is not None:
        return "pinned by the request"
    if arm is not None and arm.target != ROUTER:
        return f"arm {arm.name} of the experiment"
    best = BEST[slo.objective]
    passed = ", ".join(qualifying[: qualifying.index(variant)])
    match code:
        case "exploring":
            return "tried to see how fast it is now: it was not used lately"
        case "behind":
            return "the queue is behind: the variant that serves most of those who wait in time"
        case "at risk":
            return "the deadline is at risk: the variant that is likeliest to meet it"
        case "preferred" | "in time" if not passed or slo.objective == "latency":
            return f"{best} variant that qualifies"
        case "preferred" | "in time":
            return f"{best} variant that meets the deadline: too slow now, or gone: {passed}"
        case _:
            return f"chosen by the policy {code}"

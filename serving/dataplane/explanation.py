"""The reason for the choice of a variant, in words, from the policy's reason code."""

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
    """Return why `variant` answered a request, out of the `qualifying` variants, best first.

    `code` is the `Dispatch.reason` of the whole batch. The requests of a batch may differ in their
    qualifying variants, so the words depend on both.
    """
    if slo.variant is not None:
        return "pinned by the request"
    if arm is not None and arm.target != ROUTER:
        return f"arm {arm.name} of the experiment"
    best = BEST[slo.objective]
    passed_over = ", ".join(qualifying[: qualifying.index(variant)])
    match code:
        case "exploring":
            return "tried to measure its current latency: it was not used recently"
        case "behind":
            return "the queue is behind: the variant that answers most queued requests in time"
        case "at risk":
            return "the deadline is at risk: the variant that is most likely to meet it"
        case "preferred" | "in time" if not passed_over or slo.objective == "latency":
            return f"{best} variant that qualifies"
        case "preferred" | "in time":
            return (
                f"{best} variant that meets the deadline; "
                f"too slow now or unavailable: {passed_over}"
            )
        case _:
            return f"chosen by the policy {code}"

"""Every policy, in one table. To add one: write `serving/policy/<name>.py`, and add it below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from serving.policy.closest_fit import closest_fit
from serving.policy.fastest import fastest
from serving.policy.fifo import fifo
from serving.policy.fixed import fixed
from serving.policy.max_acc import max_acc
from serving.policy.max_batch import max_batch
from serving.policy.mmc import mmc
from serving.policy.pareto import pareto
from serving.policy.proteus import proteus
from serving.policy.round_robin import round_robin
from serving.policy.situation import Policy
from serving.policy.slack_fit import slack_fit

POLICIES: Final[Mapping[str, Policy]] = {
    "pareto": pareto,
    "fixed": fixed,
    "fifo": fifo,
    "fastest": fastest,
    "round_robin": round_robin,
    "closest_fit": closest_fit,
    "max_acc": max_acc,
    "max_batch": max_batch,
    "slack_fit": slack_fit,
    "proteus": proteus,
    "mmc": mmc,
}

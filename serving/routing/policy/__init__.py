"""All routing policies by name.

To add one, write `baselines/<name>.py`, or a file beside `pareto.py`, and add it to `POLICIES`. The
tests in `tests/serving/routing/policy/baselines/test_baselines.py` then check it. The reason code
of a baseline's batches is its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from serving.routing.policy.baselines.closest_fit import closest_fit
from serving.routing.policy.baselines.fastest import fastest
from serving.routing.policy.baselines.fifo import fifo
from serving.routing.policy.baselines.fixed import fixed
from serving.routing.policy.baselines.max_acc import max_acc
from serving.routing.policy.baselines.max_batch import max_batch
from serving.routing.policy.baselines.mmc import mmc
from serving.routing.policy.baselines.proteus import proteus
from serving.routing.policy.baselines.round_robin import round_robin
from serving.routing.policy.baselines.slack_fit import slack_fit
from serving.routing.policy.pareto import pareto
from serving.routing.policy.state import Policy

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

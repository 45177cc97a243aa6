"""Every policy, in one table. To add one: write `serving/policy/<name>.py`, and add it below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from serving.policy.situation import Policy
from serving.policy.slack import slack

POLICIES: Final[Mapping[str, Policy]] = {"slack": slack}

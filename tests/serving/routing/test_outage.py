from __future__ import annotations

import math

import pytest

from serving.routing.outage import not_ready


@pytest.mark.parametrize(
    ("since", "message", "retry_after_s"),
    [
        (98.0, "no replica of int8 is alive, for 2.0 s now; try again in 1 s", 1.0),
        (90.0, "no replica of int8 is alive, for 10.0 s now; try again in 5 s", 5.0),
        (-math.inf, "no replica of int8 is alive; try again in 5 s", 5.0),
    ],
    ids=["just lost", "lost for long", "not routed to any more"],
)
def test_the_error_states_how_long_no_replica_has_been_alive(
    since: float, message: str, retry_after_s: float
) -> None:
    error = not_ready(("int8@1",), since, 100.0)
    assert str(error) == message
    assert error.retry_after_s == retry_after_s

"""Hosts that die and machines that slow down, written as text on a command line."""

from __future__ import annotations

import math
from collections.abc import Collection

from loadtests.simulator.simulate import HostFailure, Slowdown
from loadtests.workload.notation import parse_number


def parse_host_failure(text: str, variants: Collection[str]) -> HostFailure:
    """Read `VARIANT@AT+FOR`, in seconds; raises `ValueError` that says what would be right."""
    variant, at, rest = text.rpartition("@")
    start, plus, length = rest.partition("+")
    if not at or not plus:
        raise ValueError(f"a death is VARIANT@AT+FOR in seconds, such as dense@12+3; got {text!r}")
    if variant not in variants:
        raise ValueError(f"no variant {variant!r} to kill; there are {', '.join(variants)}")
    at_s, for_s = parse_number(f"AT of {text!r}", start), parse_number(f"FOR of {text!r}", length)
    if not (0 <= at_s < math.inf and 0 < for_s < math.inf):
        raise ValueError(f"of VARIANT@AT+FOR, AT is at least 0 s and FOR above 0 s; got {text!r}")
    return HostFailure(at_s, variant, for_s)


def parse_slowdown(text: str) -> Slowdown:
    """Read `FACTOR@AT`, AT in seconds; raises `ValueError` that says what would be right."""
    factor, at, start = text.partition("@")
    if not at:
        raise ValueError(f"a slowdown is FACTOR@AT, AT in seconds, such as 2@10; got {text!r}")
    times, at_s = (
        parse_number(f"FACTOR of {text!r}", factor),
        parse_number(f"AT of {text!r}", start),
    )
    # Below 1 a policy could do better than a bound that knows the report cards alone.
    if not (1 <= times < math.inf and 0 <= at_s < math.inf):
        raise ValueError(
            f"of FACTOR@AT, FACTOR is at least 1, which is back to normal, and AT at least 0 s; "
            f"got {text!r}"
        )
    return Slowdown(at_s, times)

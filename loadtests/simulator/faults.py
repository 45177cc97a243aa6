"""Faults of a simulated service, host failures and slowdowns, and their form on a command line."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from loadtests.workload.notation import parse_number


@dataclass(frozen=True, slots=True, order=True)
class HostFailure:
    """All hosts of a variant fail at `at_s` and are available again `duration_s` later."""

    at_s: float
    variant: str
    duration_s: float


@dataclass(frozen=True, slots=True, order=True)
class Slowdown:
    """From `at_s` on, all work takes `factor` times as long: batches and that of the gateways."""

    at_s: float
    factor: float


Fault = HostFailure | Slowdown


def parse_host_failure(text: str, variants: Collection[str]) -> HostFailure:
    """Parse `VARIANT@AT+FOR`, in seconds; raises ValueError with the valid form."""
    variant, at, rest = text.rpartition("@")
    start, plus, length = rest.partition("+")
    if not at or not plus:
        raise ValueError(
            f"a host failure must be VARIANT@AT+FOR in seconds, such as dense@12+3; got {text!r}"
        )
    if variant not in variants:
        raise ValueError(f"no variant {variant!r} to kill; the variants are {', '.join(variants)}")
    at_s, duration_s = (
        parse_number(f"AT of {text!r}", start),
        parse_number(f"FOR of {text!r}", length),
    )
    if not (0 <= at_s < math.inf and 0 < duration_s < math.inf):
        raise ValueError(
            f"in VARIANT@AT+FOR, AT must be at least 0 s and FOR above 0 s; got {text!r}"
        )
    return HostFailure(at_s, variant, duration_s)


def parse_slowdown(text: str) -> Slowdown:
    """Parse `FACTOR@AT`, with AT in seconds; raises ValueError with the valid form."""
    factor, at, start = text.partition("@")
    if not at:
        raise ValueError(
            f"a slowdown must be FACTOR@AT, with AT in seconds, such as 2@10; got {text!r}"
        )
    slowdown, at_s = (
        parse_number(f"FACTOR of {text!r}", factor),
        parse_number(f"AT of {text!r}", start),
    )
    # With a factor below 1 a policy could exceed the bound, which is computed from report cards.
    if not (1 <= slowdown < math.inf and 0 <= at_s < math.inf):
        raise ValueError(
            f"in FACTOR@AT, FACTOR must be at least 1 (normal speed) and AT at least 0 s; "
            f"got {text!r}"
        )
    return Slowdown(at_s, slowdown)

"""The service level objective of a request: deadline, accuracy, objective, priority, variant.

A request parameter takes precedence over a header. Fields that are set by neither come from
the configured default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias, get_args

import orjson

from serving.errors import InvalidRequest, shorten

Objective: TypeAlias = Literal["accuracy", "latency", "cost"]

DEFAULT_PRIORITY: Final = 10
"""Rank of the protocol's priority 0 ("default"): below 1 to 9 and above 11 and more."""

MAX_CACHED: Final = 4096
"""Number of SLOs that are kept."""

MAX_PRIORITY: Final = 2**32 - 1
"""Largest value of a priority, which is the lowest priority."""


MAX_DIGITS: Final = 100
"""Maximum length of a number in a header that an error repeats digit by digit."""

LATENCY_HEADER: Final = "x-slo-latency-ms"
PRIORITY_HEADER: Final = "x-slo-priority"


@dataclass(frozen=True, slots=True)
class Slo:
    """The service level objective of one request; the defaults impose no limits.

    `latency_s` is the time allowed from the gateway's receipt of the request. `max_accuracy_drop`
    limits the upper end of the 95 % interval of a variant's accuracy drop against dense. `variant`
    overrides the router and the accuracy limits, but not the deadline.
    """

    latency_s: float = math.inf
    min_accuracy: float = 0.0
    max_accuracy_drop: float = 1.0
    objective: Objective = "accuracy"
    priority: int = DEFAULT_PRIORITY
    variant: str | None = None
    is_call_timeout: bool = False
    """Whether `latency_s` is the time-out that the client has set for its call, not a parameter."""


def parse(parameters: Mapping[str, Any], headers: Mapping[str, str], default: Slo) -> Slo:
    """Return the SLO of one request.

    The names in `headers` are in lower case. Raises `InvalidRequest`, with the field and its
    allowed values, if a value is invalid.
    """
    fields: dict[str, Any] = {}
    if headers:
        for header, (field, read) in HEADERS.items():
            if header in headers:
                fields[field] = read(f"header {header}", headers[header])
    for parameter, (field, read) in PARAMETERS.items():
        if parameter in parameters:
            value = read(f"parameter {parameter!r}", parameters[parameter])
            if value is not None:
                fields[field] = value
    return _replace(default, tuple(fields.items())) if fields else default


@lru_cache(MAX_CACHED)
def _replace(slo: Slo, fields: tuple[tuple[str, Any], ...]) -> Slo:
    """Return an SLO with other values of some fields. Most requests have the same few."""
    return replace(slo, **dict(fields))


def _number(where: str, value: Any, valid: str) -> float:
    # In Python bool is a subclass of int, but true and false are not numbers in JSON.
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidRequest(f"{where} must be {valid}, got {shorten(value)}")
    return float(value)


def _milliseconds(where: str, value: Any) -> float:
    number = _number(where, value, "a number of milliseconds above 0")
    if number <= 0:
        raise InvalidRequest(f"{where} must be above 0 milliseconds, got {shorten(value)}")
    return number / 1e3


def _microseconds(where: str, value: Any) -> float | None:
    """Read the protocol's `timeout` parameter, where 0 means no timeout."""
    number = _number(where, value, "a number of microseconds")
    if number < 0:
        raise InvalidRequest(f"{where} must be at least 0 microseconds, got {shorten(value)}")
    return number / 1e6 or None


def _share(where: str, value: Any) -> float:
    number = _number(where, value, "a number from 0 to 1")
    if not 0 <= number <= 1:
        raise InvalidRequest(f"{where} must be from 0 to 1, got {shorten(value)}")
    return number


def _objective(where: str, value: Any) -> Objective:
    if value not in get_args(Objective):
        known = ", ".join(get_args(Objective))
        raise InvalidRequest(f"{where} must be one of {known}, got {shorten(value)}")
    objective: Objective = value
    return objective


def _priority(where: str, value: Any) -> int:
    valid = f"a whole number from 0 (default) or 1 (highest) to {MAX_PRIORITY}"
    number = _number(where, value, valid)
    if number != int(number) or not 0 <= number <= MAX_PRIORITY:
        raise InvalidRequest(f"{where} must be {valid}, got {shorten(value)}")
    return int(number) or DEFAULT_PRIORITY


def _variant(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{where} must be the name of a variant, got {shorten(value)}")
    return value


_Read: TypeAlias = Callable[[str, Any], Any]
_Field: TypeAlias = tuple[str, _Read]


def read_number(text: str | bytes) -> float | None:
    """Return the number in a header, in the syntax of JSON; None if it is none.

    Python's `float` would also read `1_000`, `+5`, `.5` and `nan`.
    """
    try:
        number = orjson.loads(text)
    except ValueError:
        return None
    return number if number.__class__ in (int, float) else None


def _from_text(read: _Read) -> _Read:
    """Return a reader for numbers in text; text that is not a number is passed on to `read`."""

    def read_text(where: str, text: str) -> Any:
        number = read_number(text)
        if number.__class__ is float and len(text) < MAX_DIGITS and text.isdecimal():
            number = int(text)  # orjson reads integers of more than 64 bits as floats
        return read(where, text if number is None else number)

    return read_text


# Later rows take precedence: `slo_latency_ms` over the protocol's `timeout`, which sets the same
# field.
PARAMETERS: Final[Mapping[str, _Field]] = {
    "timeout": ("latency_s", _microseconds),
    "slo_latency_ms": ("latency_s", _milliseconds),
    "min_accuracy": ("min_accuracy", _share),
    "max_accuracy_drop": ("max_accuracy_drop", _share),
    "objective": ("objective", _objective),
    "priority": ("priority", _priority),
    "variant": ("variant", _variant),
}

HEADERS: Final[Mapping[str, _Field]] = {
    LATENCY_HEADER: ("latency_s", _from_text(_milliseconds)),
    "x-slo-min-accuracy": ("min_accuracy", _from_text(_share)),
    "x-slo-max-accuracy-drop": ("max_accuracy_drop", _from_text(_share)),
    "x-slo-objective": ("objective", _objective),
    PRIORITY_HEADER: ("priority", _from_text(_priority)),
    "x-slo-variant": ("variant", _variant),
}

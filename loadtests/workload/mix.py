"""Parses classes of requests with their SLOs from text.

In `name=strict,share=0.3,latency_x=2,min_accuracy=0.9` the values have the meaning and the range
that they have in a request to the service (`serving.routing.slo`). Omitted keys have the defaults
of a request without an SLO.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

from loadtests.workload.notation import parse_number, parse_pairs
from loadtests.workload.workload import SloClass
from serving.errors import InvalidRequest
from serving.routing.profile import VariantProfile
from serving.routing.slo import HEADERS, Slo
from variants.catalog.recipe import DENSE

Profiles: TypeAlias = Mapping[str, VariantProfile]

MAX_SIZE: Final = 1_000_000
"""Maximum number of samples in one request."""

NO_SLO: Final = "anything"
"""Text form, and default name, of a class without an SLO."""


def parse_class(text: str, profiles: Profiles | None = None) -> SloClass:
    """Parse a class from `key=value,...`; an empty text or `anything` is a class without an SLO.

    The keys are `KEYS`. At most one of them may set the deadline: `latency_ms`, `latency_x` (a
    multiple of the p95 latency of the fastest variant at batch size 1) or `dense_x` (a multiple of
    that of the dense variant). The default name of a class is its text without the share.

    Raises ValueError with the key and its valid values, also if a deadline is relative and there
    are no `profiles`, and if the pinned variant is not in `profiles`.
    """
    try:
        written = {} if text.strip() in ("", NO_SLO) else parse_pairs(text, KEYS)
        return _parse_fields(written, profiles)
    except (ValueError, InvalidRequest) as error:
        raise ValueError(f"class {text!r}: {error}") from None


def parse_mix(texts: Iterable[str], profiles: Profiles | None = None) -> tuple[SloClass, ...]:
    """Parse several classes; without texts, return one class without an SLO.

    Raises ValueError as `parse_class` does, and if two classes have the same name.
    """
    classes = tuple(parse_class(text, profiles) for text in texts) or (parse_class(NO_SLO),)
    names = [each.name for each in classes]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise ValueError(
            f"two classes have the name {duplicate!r}; set different names by name=NAME"
        )
    return classes


def _parse_fields(written: Mapping[str, str], profiles: Profiles | None) -> SloClass:
    deadlines = [key for key in written if key in (*_REFERENCE_LATENCIES, "latency_ms")]
    if len(deadlines) > 1:
        raise ValueError(f"{' and '.join(deadlines)} both set the deadline; give only one")
    slo_fields: dict[str, Any] = {}
    for key, value in written.items():
        if key in _SLO_HEADERS:
            field, read = HEADERS[_SLO_HEADERS[key]]
            slo_fields[field] = read(key, value)
        elif key in _REFERENCE_LATENCIES:
            slo_fields["latency_s"] = _parse_positive(key, value) * _REFERENCE_LATENCIES[key](
                key, profiles
            )
    slo = Slo(**slo_fields)
    if slo.variant is not None and profiles is not None and slo.variant not in profiles:
        raise ValueError(f"variant must be one of {', '.join(profiles)}, got {slo.variant!r}")
    description = [
        f"{key}={value}" for key, value in written.items() if key not in ("name", "share")
    ]
    return SloClass(
        name=written.get("name") or ",".join(description) or NO_SLO,
        slo=slo,
        share=_parse_positive("share", written.get("share", "1")),
        size=_parse_size(written.get("size", "1")),
    )


def _fastest_s(key: str, profiles: Profiles | None) -> float:
    if not profiles:
        raise ValueError(f"{key} requires a catalog; without one give latency_ms")
    return min(_p95_alone_s(key, profile) for profile in profiles.values())


def _dense_s(key: str, profiles: Profiles | None) -> float:
    if not profiles or DENSE not in profiles:
        raise ValueError(
            f"{key} requires a catalog with variant {DENSE}; without one give latency_ms"
        )
    return _p95_alone_s(key, profiles[DENSE])


def _p95_alone_s(key: str, profile: VariantProfile) -> float:
    if 1 not in profile.latencies:
        sizes = ", ".join(map(str, profile.latencies))
        raise ValueError(
            f"{key} requires variant {profile.variant} to be measured at batch size 1; it was "
            f"measured at {sizes}; give latency_ms"
        )
    return profile.latencies[1].p95_s


def _parse_positive(key: str, text: str) -> float:
    value = parse_number(key, text)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{key} must be a number above 0, got {text!r}")
    return value


def _parse_size(text: str) -> int:
    value = parse_number("size", text)
    if not (1 <= value <= MAX_SIZE and value == int(value)):
        raise ValueError(f"size must be a whole number from 1 to {MAX_SIZE}, got {text!r}")
    return int(value)


_SLO_HEADERS: Final = {
    "latency_ms": "x-slo-latency-ms",
    "min_accuracy": "x-slo-min-accuracy",
    "max_accuracy_drop": "x-slo-max-accuracy-drop",
    "objective": "x-slo-objective",
    "priority": "x-slo-priority",
    "variant": "x-slo-variant",
}
"""Request header with the same meaning, by key."""

_REFERENCE_LATENCIES: Final[Mapping[str, Callable[[str, Profiles | None], float]]] = {
    "latency_x": _fastest_s,
    "dense_x": _dense_s,
}
"""Latency that a relative deadline is a multiple of, in seconds, by key."""

KEYS: Final = ("name", "share", *_SLO_HEADERS, *_REFERENCE_LATENCIES, "size")

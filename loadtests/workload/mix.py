"""What requests ask for: classes of them with their SLOs, read from text.

`name=strict,share=0.3,latency_x=2,min_accuracy=0.9`: the values mean, and may be, what they do for
a request to the service (`serving.routing.slo`); what is left out is not asked for.
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

ASKS_NOTHING: Final = "anything"
"""Text, and the name where none is given, of a class without an SLO."""


def parse_class(text: str, profiles: Profiles | None = None) -> SloClass:
    """Read a class from `key=value,...`; an empty text, or `anything`, asks for nothing.

    The keys are `KEYS`. Of `latency_ms`, `latency_x` (times the 95th percentile at batch size 1 of
    the fastest variant) and `dense_x` (times that of dense) one may be given; without any there is
    no deadline. A class without a name is called by what it asks for.

    Raises `ValueError` that names the key and what it may be, also where a deadline is relative to
    `profiles` that are not given, and where these lack the variant that is pinned.
    """
    try:
        written = {} if text.strip() in ("", ASKS_NOTHING) else parse_pairs(text, KEYS)
        return _read(written, profiles)
    except (ValueError, InvalidRequest) as error:
        raise ValueError(f"class {text!r}: {error}") from None


def parse_mix(texts: Iterable[str], profiles: Profiles | None = None) -> tuple[SloClass, ...]:
    """Read several classes; one that asks for nothing if there are none.

    Raises `ValueError` as `parse_class` does, and if two have the same name.
    """
    classes = tuple(parse_class(text, profiles) for text in texts) or (parse_class(ASKS_NOTHING),)
    names = [each.name for each in classes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two classes are called {twice!r}; tell them apart by name=NAME")
    return classes


def _read(written: Mapping[str, str], profiles: Profiles | None) -> SloClass:
    deadlines = [key for key in written if key in (*_RELATIVE, "latency_ms")]
    if len(deadlines) > 1:
        raise ValueError(f"{' and '.join(deadlines)} both set the deadline; give one of them")
    asked: dict[str, Any] = {}
    for key, value in written.items():
        if key in _SLO:
            field, read = HEADERS[_SLO[key]]
            asked[field] = read(key, value)
        elif key in _RELATIVE:
            asked["latency_s"] = _factor(key, value) * _RELATIVE[key](key, profiles)
    slo = Slo(**asked)
    if slo.variant is not None and profiles is not None and slo.variant not in profiles:
        raise ValueError(f"variant must be one of {', '.join(profiles)}, got {slo.variant!r}")
    what = [f"{key}={value}" for key, value in written.items() if key not in ("name", "share")]
    return SloClass(
        name=written.get("name") or ",".join(what) or ASKS_NOTHING,
        slo=slo,
        share=_factor("share", written.get("share", "1")),
        size=_size(written.get("size", "1")),
    )


def _fastest_s(key: str, profiles: Profiles | None) -> float:
    if not profiles:
        raise ValueError(f"{key} needs a catalog; without one give latency_ms")
    return min(_single_s(key, profile) for profile in profiles.values())


def _dense_s(key: str, profiles: Profiles | None) -> float:
    if not profiles or DENSE not in profiles:
        raise ValueError(f"{key} needs a catalog with the variant {DENSE}; else give latency_ms")
    return _single_s(key, profiles[DENSE])


def _single_s(key: str, profile: VariantProfile) -> float:
    if 1 not in profile.latencies:
        sizes = ", ".join(map(str, profile.latencies))
        raise ValueError(
            f"{key} needs variant {profile.variant} measured at batch size 1, and it was at {sizes}; "
            "give latency_ms"
        )
    return profile.latencies[1].p95_s


def _factor(key: str, text: str) -> float:
    value = parse_number(key, text)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{key} must be a number above 0, got {text!r}")
    return value


def _size(text: str) -> int:
    value = parse_number("size", text)
    if not (1 <= value <= MAX_SIZE and value == int(value)):
        raise ValueError(f"size must be a whole number from 1 to {MAX_SIZE}, got {text!r}")
    return int(value)


_SLO: Final = {
    "latency_ms": "x-slo-latency-ms",
    "min_accuracy": "x-slo-min-accuracy",
    "max_accuracy_drop": "x-slo-max-accuracy-drop",
    "objective": "x-slo-objective",
    "priority": "x-slo-priority",
    "variant": "x-slo-variant",
}
"""Key here, and header that says the same to the service."""

_RELATIVE: Final[Mapping[str, Callable[[str, Profiles | None], float]]] = {
    "latency_x": _fastest_s,
    "dense_x": _dense_s,
}

KEYS: Final = ("name", "share", *_SLO, *_RELATIVE, "size")

"""When requests arrive: the processes of the serving papers, and a recorded trace.

All are unit streams (`loadtests.workload.renewal`) in stretched time. As text: `KIND`, or
`KIND:key=value,...` with the fields of the kind's class, such as `gamma:cv2=4`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from loadtests.workload.notation import parse_number, parse_pairs
from loadtests.workload.renewal import check_cv2, stream
from loadtests.workload.trace import read_counts

Times: TypeAlias = npt.NDArray[np.float64]
"""Seconds in [0, seconds), never decreasing."""


@dataclass(frozen=True, slots=True)
class Uniform:
    """Equal gaps; the seed decides only when the first request comes."""

    def times(self, rng: np.random.Generator, rate_per_s: float, seconds: float) -> Times:
        """Draw the arrivals."""
        return _at_rate(rng, 0.0, rate_per_s, seconds)


@dataclass(frozen=True, slots=True)
class Poisson:
    """Requests that know nothing of each other."""

    def times(self, rng: np.random.Generator, rate_per_s: float, seconds: float) -> Times:
        """Draw the arrivals."""
        return _at_rate(rng, 1.0, rate_per_s, seconds)


@dataclass(frozen=True, slots=True)
class Gamma:
    """Independent gamma distributed gaps: burstier than Poisson where `cv2` is above 1."""

    cv2: float
    """Squared coefficient of variation of the gaps."""

    def __post_init__(self) -> None:
        check_cv2(self.cv2)

    def times(self, rng: np.random.Generator, rate_per_s: float, seconds: float) -> Times:
        """Draw the arrivals."""
        return _at_rate(rng, self.cv2, rate_per_s, seconds)


@dataclass(frozen=True, slots=True)
class Bursts:
    """A steady base with equal gaps, and a gamma stream on top (SuperServe, section 6).

    The rate is that of both together.
    """

    extra: float
    """Rate of the stream, in multiples of the base's."""
    cv2: float
    """Of the gaps in the stream."""

    def __post_init__(self) -> None:
        _check_above_0("extra", self.extra)
        check_cv2(self.cv2)

    def times(self, rng: np.random.Generator, rate_per_s: float, seconds: float) -> Times:
        """Draw the arrivals."""
        base_per_s = rate_per_s / (1 + self.extra)
        base = _at_rate(rng, 0.0, base_per_s, seconds)
        top = _at_rate(rng, self.cv2, rate_per_s - base_per_s, seconds)
        return np.sort(np.concatenate([base, top]), kind="stable")  # merges two sorted runs


@dataclass(frozen=True, slots=True)
class Acceleration:
    """A rate that changes steadily (SuperServe, section 6).

    It is `rate_per_s` for the first quarter of the time, then moves by `per_s` times that in each
    second until it is `to` times that, and stays there.
    """

    to: float
    per_s: float
    cv2: float = 1.0
    """Of the gaps, measured in expected arrivals."""

    def __post_init__(self) -> None:
        _check_above_0("to", self.to)
        _check_above_0("per_s", self.per_s)
        check_cv2(self.cv2)

    def times(self, rng: np.random.Generator, rate_per_s: float, seconds: float) -> Times:
        """Draw the arrivals."""
        rest_s = seconds / 4
        ramp_s = min(abs(self.to - 1) / self.per_s, seconds - rest_s)
        slope = math.copysign(self.per_s, self.to - 1)
        # Expected arrivals, in those of a second at rest: before the ramp, in it, and after.
        in_ramp = ramp_s + slope * ramp_s**2 / 2
        after = (seconds - rest_s - ramp_s) * self.to
        unit = stream(rng, self.cv2, rate_per_s * (rest_s + in_ramp + after)) / rate_per_s
        since = np.clip(unit - rest_s, 0, in_ramp)
        # The root of since = t + slope t^2 / 2, in the form that stays exact as slope goes to 0.
        climbed_s = 2 * since / (1 + np.sqrt(np.maximum(0, 1 + 2 * slope * since)))
        times = np.minimum(unit, rest_s) + climbed_s
        times += np.maximum(0, unit - rest_s - in_ramp) / self.to
        return _within(times, seconds)


@dataclass(frozen=True, slots=True)
class Trace:
    """A recorded rate, second by second, scaled to a mean of `rate_per_s` over what is taken.

    A time shorter than the trace takes its first part.
    """

    path: Path
    """A file as `loadtests.workload.trace.read_counts` wants it."""
    seconds_per_row: float = 1.0
    """How long a row lasts here: below 1 plays the trace faster than it was recorded."""
    cv2: float = 1.0
    """Of the gaps, measured in expected arrivals: 1 draws Poisson arrivals in each row."""

    def __post_init__(self) -> None:
        _check_above_0("seconds_per_row", self.seconds_per_row)
        check_cv2(self.cv2)

    def times(self, rng: np.random.Generator, rate_per_s: float, seconds: float) -> Times:
        """Draw the arrivals.

        Raises `ValueError` for a file that is no trace, a trace that is shorter than `seconds`, and
        one that has no arrivals in that time.
        """
        counts = read_counts(self.path)
        lasts_s = len(counts) * self.seconds_per_row
        if seconds > lasts_s:
            raise ValueError(
                f"{self.path} lasts {lasts_s:g} s; take at most that instead of {seconds:g} s, or "
                f"seconds_per_row of at least {seconds / len(counts):.4g}"
            )
        rows = min(math.ceil(seconds / self.seconds_per_row), len(counts))
        rates = counts[:rows]  # of any unit: what matters is how they compare
        edges_s = np.minimum(np.arange(rows + 1) * self.seconds_per_row, seconds)
        recorded = np.concatenate([[0.0], np.cumsum(rates * np.diff(edges_s))])
        if not recorded[-1]:
            raise ValueError(f"{self.path} has no arrivals in its first {seconds:g} s")
        expected = rate_per_s * seconds
        unit = stream(rng, self.cv2, expected) * (recorded[-1] / expected)
        unit = unit[unit < recorded[-1]]  # the product may have been rounded up
        # The row that holds the arrival, so one that has a rate: rows without one are stepped over.
        row = np.searchsorted(recorded, unit, side="right") - 1
        return _within(edges_s[row] + (unit - recorded[row]) / rates[row], seconds)


Arrivals: TypeAlias = Uniform | Poisson | Gamma | Bursts | Acceleration | Trace

ARRIVALS: Final[Mapping[str, type[Arrivals]]] = {
    "uniform": Uniform,
    "poisson": Poisson,
    "gamma": Gamma,
    "bursts": Bursts,
    "acceleration": Acceleration,
    "trace": Trace,
}


def parse_arrivals(text: str) -> Arrivals:
    """Read `KIND` or `KIND:key=value,...`.

    Raises `ValueError` that says which kinds, keys and values there are.
    """
    kind, colon, rest = text.partition(":")
    kind = kind.strip()
    process = ARRIVALS.get(kind)
    if process is None:
        raise ValueError(f"no arrivals of kind {kind!r}; there are {', '.join(ARRIVALS)}")
    keys = {field.name: field.default is MISSING for field in fields(process)}
    try:
        written = parse_pairs(rest, keys) if colon else {}
        missing = [f"{key}=VALUE" for key, needed in keys.items() if needed and key not in written]
        if missing:
            raise ValueError(f"needs {','.join(missing)}")
        values: dict[str, Any] = {
            key: Path(value) if key == "path" else parse_number(key, value)
            for key, value in written.items()
        }
        return process(**values)
    except ValueError as error:
        raise ValueError(f"arrivals {text!r}: {error}") from None


def describe_arrivals(arrivals: Arrivals) -> str:
    """Return a short text for tables: the kind and what is not its default; of a path the name."""
    words = [next(kind for kind, process in ARRIVALS.items() if isinstance(arrivals, process))]
    for field in fields(arrivals):
        value = getattr(arrivals, field.name)
        if isinstance(value, Path):
            words.append(value.name)
        elif value != field.default:
            words.append(f"{field.name}={value:g}")
    return " ".join(words)


def _at_rate(rng: np.random.Generator, cv2: float, rate_per_s: float, seconds: float) -> Times:
    return _within(stream(rng, cv2, rate_per_s * seconds) / rate_per_s, seconds)


def _within(times: Times, seconds: float) -> Times:
    """Undo what rounding may do: turn neighbours around, or reach the end."""
    return np.minimum(np.maximum.accumulate(times), np.nextafter(seconds, 0))


def _check_above_0(key: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{key} must be a number above 0, got {value:g}")

"""Arrival processes: those of the papers on model serving, and recorded traces.

Each one is a unit stream (`loadtests.workload.renewal`) mapped to a rate. The text form is `KIND`
or `KIND:key=value,...`, where the keys are the fields of the class, for example `gamma:cv2=4`.
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
from loadtests.workload.renewal import check_cv2, draw_stream
from loadtests.workload.trace import read_counts

Times: TypeAlias = npt.NDArray[np.float64]
"""Arrival times in seconds, in [0, seconds), in ascending order."""


@dataclass(frozen=True, slots=True)
class Uniform:
    """Equal gaps between requests; only the time of the first request is random."""

    def draw_times(self, rng: np.random.Generator, rate_per_s: float, seconds: float) -> Times:
        """Draw the arrival times."""
        return _draw_at_rate(rng, 0.0, rate_per_s, seconds)


@dataclass(frozen=True, slots=True)
class Poisson:
    """A Poisson process: independent, exponentially distributed gaps."""

    def draw_times(self, rng: np.random.Generator, rate_per_s: float, seconds: float) -> Times:
        """Draw the arrival times."""
        return _draw_at_rate(rng, 1.0, rate_per_s, seconds)


@dataclass(frozen=True, slots=True)
class Gamma:
    """Independent, gamma distributed gaps; burstier than Poisson if `cv2` is above 1."""

    cv2: float
    """Squared coefficient of variation of the gaps."""

    def __post_init__(self) -> None:
        check_cv2(self.cv2)

    def draw_times(self, rng: np.random.Generator, rate_per_s: float, seconds: float) -> Times:
        """Draw the arrival times."""
        return _draw_at_rate(rng, self.cv2, rate_per_s, seconds)


@dataclass(frozen=True, slots=True)
class Bursts:
    """A base stream with equal gaps plus a gamma stream (SuperServe, section 6).

    The rate is the sum of the rates of both streams.
    """

    extra: float
    """Rate of the gamma stream, as a multiple of the rate of the base stream."""
    cv2: float
    """Squared coefficient of variation of the gaps in the gamma stream."""

    def __post_init__(self) -> None:
        _check_above_0("extra", self.extra)
        check_cv2(self.cv2)

    def draw_times(self, rng: np.random.Generator, rate_per_s: float, seconds: float) -> Times:
        """Draw the arrival times."""
        base_per_s = rate_per_s / (1 + self.extra)
        base = _draw_at_rate(rng, 0.0, base_per_s, seconds)
        top = _draw_at_rate(rng, self.cv2, rate_per_s - base_per_s, seconds)
        return np.sort(np.concatenate([base, top]), kind="stable")  # stable: merges two sorted runs


@dataclass(frozen=True, slots=True)
class Acceleration:
    """A rate that changes linearly (SuperServe, section 6).

    The rate is `rate_per_s` for the first quarter of the time. Then it changes by
    `per_s * rate_per_s` each second until it is `to * rate_per_s`, and stays there.
    """

    to: float
    per_s: float
    cv2: float = 1.0
    """Squared coefficient of variation of the gaps, measured in expected arrivals."""

    def __post_init__(self) -> None:
        _check_above_0("to", self.to)
        _check_above_0("per_s", self.per_s)
        check_cv2(self.cv2)

    def draw_times(self, rng: np.random.Generator, rate_per_s: float, seconds: float) -> Times:
        """Draw the arrival times."""
        rest_s = seconds / 4
        ramp_s = min(abs(self.to - 1) / self.per_s, seconds - rest_s)
        slope = math.copysign(self.per_s, self.to - 1)
        # Expected arrivals during and after the ramp, in units of rate_per_s.
        in_ramp = ramp_s + slope * ramp_s**2 / 2
        after = (seconds - rest_s - ramp_s) * self.to
        unit = draw_stream(rng, self.cv2, rate_per_s * (rest_s + in_ramp + after)) / rate_per_s
        since = np.clip(unit - rest_s, 0, in_ramp)
        # The root of since = t + slope t^2 / 2, in the form that stays exact as slope approaches 0.
        climbed_s = 2 * since / (1 + np.sqrt(np.maximum(0, 1 + 2 * slope * since)))
        times = np.minimum(unit, rest_s) + climbed_s
        times += np.maximum(0, unit - rest_s - in_ramp) / self.to
        return _correct_rounding(times, seconds)


@dataclass(frozen=True, slots=True)
class Trace:
    """A recorded rate per second, scaled to a mean of `rate_per_s`.

    If `seconds` is shorter than the trace, its first part is used.
    """

    path: Path
    """File in the format of `loadtests.workload.trace.read_counts`."""
    seconds_per_row: float = 1.0
    """Duration of a row in the workload; below 1, the trace is played faster than recorded."""
    cv2: float = 1.0
    """Squared coefficient of variation of the gaps, in expected arrivals; 1 is Poisson."""

    def __post_init__(self) -> None:
        _check_above_0("seconds_per_row", self.seconds_per_row)
        check_cv2(self.cv2)

    def draw_times(self, rng: np.random.Generator, rate_per_s: float, seconds: float) -> Times:
        """Draw the arrival times.

        Raises ValueError if the file is not a trace, if the trace is shorter than `seconds`, or if
        it has no arrivals in that time.
        """
        counts = read_counts(self.path)
        trace_s = len(counts) * self.seconds_per_row
        if seconds > trace_s:
            raise ValueError(
                f"{self.path} lasts {trace_s:g} s; take at most that instead of {seconds:g} s, or "
                f"seconds_per_row of at least {seconds / len(counts):.4g}"
            )
        rows = min(math.ceil(seconds / self.seconds_per_row), len(counts))
        rates = counts[:rows]  # only their ratios matter
        edges_s = np.minimum(np.arange(rows + 1) * self.seconds_per_row, seconds)
        recorded = np.concatenate([[0.0], np.cumsum(rates * np.diff(edges_s))])
        if not recorded[-1]:
            raise ValueError(f"{self.path} has no arrivals in its first {seconds:g} s")
        expected = rate_per_s * seconds
        unit = draw_stream(rng, self.cv2, expected) * (recorded[-1] / expected)
        unit = unit[unit < recorded[-1]]  # rounding may have reached the end
        # The row of the arrival; rows without arrivals are skipped, so its rate is above 0.
        row = np.searchsorted(recorded, unit, side="right") - 1
        return _correct_rounding(edges_s[row] + (unit - recorded[row]) / rates[row], seconds)


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
    """Parse `KIND` or `KIND:key=value,...`.

    Raises ValueError with the valid kinds, keys or values.
    """
    kind, colon, rest = text.partition(":")
    kind = kind.strip()
    process = ARRIVALS.get(kind)
    if process is None:
        raise ValueError(f"unknown kind of arrivals {kind!r}; the kinds are {', '.join(ARRIVALS)}")
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
    """Return a short text for tables: the kind and the values that are not defaults.

    A path is shortened to its file name.
    """
    words = [next(kind for kind, process in ARRIVALS.items() if isinstance(arrivals, process))]
    for field in fields(arrivals):
        value = getattr(arrivals, field.name)
        if isinstance(value, Path):
            words.append(value.name)
        elif value != field.default:
            words.append(f"{field.name}={value:g}")
    return " ".join(words)


def _draw_at_rate(rng: np.random.Generator, cv2: float, rate_per_s: float, seconds: float) -> Times:
    return _correct_rounding(draw_stream(rng, cv2, rate_per_s * seconds) / rate_per_s, seconds)


def _correct_rounding(times: Times, seconds: float) -> Times:
    """Correct rounding errors: restore ascending order and keep times below `seconds`."""
    return np.minimum(np.maximum.accumulate(times), np.nextafter(seconds, 0))


def _check_above_0(key: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{key} must be a number above 0, got {value:g}")

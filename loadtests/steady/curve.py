"""Measures goodput by load: clients in a closed loop, and multiples of capacity in an open loop.

Each load is applied twice in a row, with the deadline under test and with a loose one. Their ratio
is the share of the possible answers that are in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np

from loadtests.steady.client_process import LoadClient
from loadtests.steady.measurement import Measurement, summarize_load
from loadtests.steady.target import Target
from loadtests.workload.arrivals import Poisson
from variants.catalog.record import Record, read_record

CURVE_FILE: Final = "goodput.json"
"""Name of the file with all measurements of a curve."""

CAPACITY_CLIENTS: Final = 64
"""Clients in the closed loop, with the loose deadline, whose goodput is the capacity: as many as
fill a batch."""


class Loop(StrEnum):
    """How requests are generated."""

    CLOSED = "closed"
    """The level is the number of clients."""
    OPEN = "open"
    """Poisson arrivals; the level is a multiple of the capacity."""


class CurvePoint(Record):
    """One load in one round."""

    policy: str
    round: int
    loop: Loop
    level: float
    is_loose: bool
    """Whether the requests had the loose deadline."""
    capacity_per_s: float
    """Goodput of `CAPACITY_CLIENTS` clients with the loose deadline, in the same round."""
    measured: Measurement

    @property
    def goodput_per_s(self) -> float:
        """Responses in time per second."""
        return self.measured.goodput_per_s


class Curve(Record):
    """All measurements of one run, for tables and plots."""

    label: str
    """Name of the measured version, if several are compared."""
    deadline_ms: float
    loose_deadline_ms: float
    note: str
    """The conditions of the measurement."""
    points: tuple[CurvePoint, ...]

    @property
    def policies(self) -> tuple[str, ...]:
        """The measured policies, in order."""
        return tuple(dict.fromkeys(point.policy for point in self.points))

    def levels(self, loop: Loop) -> list[float]:
        """Return the measured levels of a loop, ascending."""
        return sorted({point.level for point in self.points if point.loop is loop})

    def rounds(self, policy: str, loop: Loop, level: float, *, is_loose: bool) -> list[CurvePoint]:
        """Return the points of one load, by round."""
        wanted = (policy, loop, level, is_loose)
        chosen = [p for p in self.points if (p.policy, p.loop, p.level, p.is_loose) == wanted]
        return sorted(chosen, key=lambda point: point.round)


def read_curve(folder: Path) -> Curve:
    """Read the curve that a run has written to a folder; raises ValueError if it has none."""
    path = folder / CURVE_FILE
    if not path.is_file():
        raise ValueError(f"{folder} has no {CURVE_FILE}; give a folder that --out has written")
    return read_record(Curve, path)


@dataclass(frozen=True)
class CurvePlan:
    """The loads that are measured in each round, and for how long."""

    clients: Sequence[int]
    multiples: Sequence[float]
    """Offered rates of the open loop, as multiples of the capacity."""
    deadline_ms: float
    loose_deadline_ms: float
    seconds: float
    """Duration of the measurement of one load."""
    settle_s: float
    """Time at the start of each load that is not measured."""

    @property
    def loads(self) -> int:
        """Number of loads in a round."""
        return 2 * (len(self.clients) + len(self.multiples)) + 1

    @property
    def seconds_per_load(self) -> float:
        """Time during which a load is applied."""
        return self.settle_s + self.seconds


def measure_round(
    client: LoadClient,
    target: Target,
    plan: CurvePlan,
    policy: str,
    number: int,
    on_load: Callable[[], None] = lambda: None,
) -> Iterator[CurvePoint]:
    """Measure every load once; `number` of the round is the seed of the arrivals.

    `on_load` is called after each load. The order of the two deadlines alternates between rounds.

    Raises OSError if no connection can be opened, RuntimeError if there is no answer at all to the
    loose deadline, which leaves no capacity to offer multiples of.
    """

    def measure(is_loose: bool, **fields: Any) -> Measurement:
        deadline_ms = plan.loose_deadline_ms if is_loose else plan.deadline_ms
        load = target.load(deadline_ms, plan.seconds_per_load, **fields)
        record = client.run(load)
        on_load()
        return summarize_load(record, deadline_ms, plan.settle_s, plan.seconds_per_load)

    capacity_per_s = measure(True, clients=CAPACITY_CLIENTS).goodput_per_s
    if not capacity_per_s:
        raise RuntimeError(f"{CAPACITY_CLIENTS} clients got no answer: the capacity is unknown")
    rng = np.random.default_rng(number)
    levels = [(Loop.CLOSED, float(clients)) for clients in plan.clients]
    levels += [(Loop.OPEN, multiple) for multiple in plan.multiples]
    for loop, level in levels:
        for is_loose in (True, False) if number % 2 else (False, True):
            if loop is Loop.CLOSED:
                measured = measure(is_loose, clients=int(level))
            else:
                rate_per_s = level * capacity_per_s
                arrivals_s = Poisson().draw_times(rng, rate_per_s, plan.seconds_per_load)
                measured = measure(is_loose, arrivals_s=arrivals_s)
            yield CurvePoint(
                policy=policy,
                round=number,
                loop=loop,
                level=level,
                is_loose=is_loose,
                capacity_per_s=capacity_per_s,
                measured=measured,
            )

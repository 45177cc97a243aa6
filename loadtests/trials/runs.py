"""A trial: runs of several policies under several conditions with several seeds.

All policies get the same workload for a condition and a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final, Literal, TypeAlias

from loadtests.trials.calibration import Calibration
from loadtests.trials.scores import Score
from variants.catalog.record import Record

Setting: TypeAlias = Literal["load", "cv2", "slo_factor"]

_FORMATS: Final[Mapping[Setting, str]] = {
    "load": "load {:g}",
    "cv2": "CV² {:g}",
    "slo_factor": "deadline {:g}x",
}


class Condition(Record):
    """The settings of a workload, without the seed; None for settings that do not apply."""

    kind: str
    """Kind of arrivals: `gamma`, `bursts` with its parameters, or the name of a trace."""
    load: float | None = None
    """Offered rate as a multiple of the capacity of the dense variant."""
    cv2: float | None = None
    """Squared coefficient of variation of the times between arrivals."""
    slo_factor: float | None = None
    """Deadline as a multiple of the p95 latency of the variant in the title of the trial."""

    @property
    def label(self) -> str:
        """The condition as text."""
        settings = self.settings("load", "cv2", "slo_factor")
        return f"{self.kind}, {settings}" if settings else self.kind

    def settings(self, *names: Setting) -> str:
        """Return those of the named settings that apply as text."""
        values = ((name, getattr(self, name)) for name in names)
        return ", ".join(
            _FORMATS[name].format(value) for name, value in values if value is not None
        )


class Run(Record):
    """One run of one policy under one condition."""

    condition: Condition
    seed: int
    score: Score
    attainable: float | None = None
    """Upper bound of the attainment of any policy; see `bound.clairvoyant`."""
    calibration: Calibration | None = None

    def with_policy_name(self, policy: str) -> Run:
        """Return a copy with another name of the policy."""
        return self.model_copy(update={"score": self.score.model_copy(update={"policy": policy})})


class Trial(Record):
    """All runs. The policy of the first run is evaluated; the others are baselines."""

    title: str
    note: str = ""
    """Information for the reader, such as hardware, command and simulated service."""
    runs: tuple[Run, ...]

    @property
    def policies(self) -> tuple[str, ...]:
        """The policies in order of appearance, the evaluated policy first."""
        return tuple(dict.fromkeys(run.score.policy for run in self.runs))

    @property
    def is_repeated(self) -> bool:
        """Whether there are several seeds, and therefore intervals."""
        return len({run.seed for run in self.runs}) > 1

    @property
    def attainable(self) -> Mapping[Condition, float]:
        """Upper bounds of the attainment by condition: means over the runs with a bound."""
        bounds: dict[Condition, list[float]] = {}
        for run in self.runs:
            if run.attainable is not None:
                bounds.setdefault(run.condition, []).append(run.attainable)
        return {condition: fmean(values) for condition, values in bounds.items()}

    @property
    def scores(self) -> Mapping[Condition, Mapping[str, Sequence[Score]]]:
        """Scores in order of seed, by condition and policy in order of appearance."""
        scores: dict[Condition, dict[str, list[Score]]] = {}
        for run in sorted(self.runs, key=lambda run: run.seed):
            by_policy = scores.setdefault(run.condition, {})
            by_policy.setdefault(run.score.policy, []).append(run.score)
        conditions = dict.fromkeys(run.condition for run in self.runs)
        return {
            condition: {
                policy: scores[condition][policy]
                for policy in self.policies
                if policy in scores[condition]
            }
            for condition in conditions
        }

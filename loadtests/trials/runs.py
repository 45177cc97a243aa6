"""A trial: policies under conditions, each on the same workloads, with a seed for each repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final, Literal, TypeAlias

from loadtests.trials.calibration import Calibration
from loadtests.trials.scores import Score
from variants.catalog.record import Record

Setting: TypeAlias = Literal["load", "cv2", "slo_factor"]

_WORDS: Final[Mapping[Setting, str]] = {
    "load": "load {:g}",
    "cv2": "CV² {:g}",
    "slo_factor": "deadline {:g}x",
}


class Condition(Record):
    """What a workload was like, whatever its seed; None where a setting does not apply."""

    kind: str
    """Of arrivals: `gamma`, `bursts`, the name of a trace."""
    load: float | None = None
    """Offered rate over what the dense variant can serve."""
    cv2: float | None = None
    """Squared coefficient of variation of the times between arrivals."""
    slo_factor: float | None = None
    """Deadline over the p95 latency of a variant; the trial's title says which."""

    @property
    def label(self) -> str:
        """All of it, in words."""
        settings = self.settings("load", "cv2", "slo_factor")
        return f"{self.kind}, {settings}" if settings else self.kind

    def settings(self, *names: Setting) -> str:
        """Say those of these settings that apply."""
        values = ((name, getattr(self, name)) for name in names)
        return ", ".join(_WORDS[name].format(value) for name, value in values if value is not None)


class Run(Record):
    """One policy, once, under one condition."""

    condition: Condition
    seed: int
    score: Score
    attainable: float | None = None
    """The most attainment that any policy could reach, by the clairvoyant bound."""
    calibration: Calibration | None = None

    def with_policy_name(self, policy: str) -> Run:
        """Return it under another name of its policy."""
        return self.model_copy(update={"score": self.score.model_copy(update={"policy": policy})})


class Trial(Record):
    """Every run; the policy of the first run is ours, the others are what it is compared with."""

    title: str
    note: str = ""
    """What a reader must know beside the numbers: hardware, command, what was simulated."""
    runs: tuple[Run, ...]

    @property
    def policies(self) -> tuple[str, ...]:
        """The policies, in order of appearance: ours first."""
        return tuple(dict.fromkeys(run.score.policy for run in self.runs))

    @property
    def is_repeated(self) -> bool:
        """Tell whether there are several seeds, and with them intervals."""
        return len({run.seed for run in self.runs}) > 1

    @property
    def attainable(self) -> Mapping[Condition, float]:
        """The most attainment that could be reached: means over the runs that had a bound."""
        found: dict[Condition, list[float]] = {}
        for run in self.runs:
            if run.attainable is not None:
                found.setdefault(run.condition, []).append(run.attainable)
        return {condition: fmean(bounds) for condition, bounds in found.items()}

    @property
    def scores(self) -> Mapping[Condition, Mapping[str, Sequence[Score]]]:
        """By condition and policy, in order of appearance: the scores in order of seed."""
        found: dict[Condition, dict[str, list[Score]]] = {}
        for run in sorted(self.runs, key=lambda run: run.seed):
            by_policy = found.setdefault(run.condition, {})
            by_policy.setdefault(run.score.policy, []).append(run.score)
        conditions = dict.fromkeys(run.condition for run in self.runs)
        return {
            condition: {
                policy: found[condition][policy]
                for policy in self.policies
                if policy in found[condition]
            }
            for condition in conditions
        }

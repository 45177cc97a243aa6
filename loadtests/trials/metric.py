"""The metrics of a score that tables and plots show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from loadtests.trials.scores import Score


@dataclass(frozen=True, slots=True)
class Metric:
    """Access to one metric of a score, and its format."""

    title: str
    """Title with the unit."""
    get: Callable[[Score], float | None]
    scale: float = 1.0
    """Factor from the unit of the score to that of the title."""
    digits: int = 2

    @property
    def is_share(self) -> bool:
        """Whether the metric is a share, 0 to 1, written in percent."""
        return self.scale == 100


METRICS: Final[Mapping[str, Metric]] = {
    "attainment": Metric("on time, %", lambda score: score.attainment, 100, 3),
    "joint_attainment": Metric(
        "on time and accurate, %", lambda score: score.joint_attainment, 100, 3
    ),
    "mean_accuracy": Metric("accuracy, %", lambda score: score.mean_accuracy, 100),
    "effective_accuracy": Metric(
        "accuracy with late, %", lambda score: score.effective_accuracy, 100
    ),
    "utility": Metric("utility, %", lambda score: score.utility, 100),
    "regret": Metric("regret, %", lambda score: score.regret, 100),
    "max_accuracy_drop": Metric(
        "max. accuracy drop, %", lambda score: score.max_accuracy_drop, 100
    ),
    "violation_ratio": Metric("violations, %", lambda score: score.violation_ratio, 100, 3),
    "shed": Metric("shed, %", lambda score: score.status_shares["shed"], 100),
    "expired": Metric("expired, %", lambda score: score.status_shares["expired"], 100),
    "unattainable": Metric(
        "unattainable, %", lambda score: score.status_shares["unattainable"], 100
    ),
    "failed": Metric("failed, %", lambda score: score.status_shares["failed"], 100, 3),
    "lost": Metric("lost, %", lambda score: score.status_shares["lost"], 100, 3),
    "floor_violations": Metric("below floor", lambda score: score.floor_violations, digits=0),
    "offered_per_s": Metric("offered/s", lambda score: score.offered_per_s, digits=1),
    "goodput_per_s": Metric("goodput/s", lambda score: score.goodput_per_s, digits=1),
    "joint_goodput_per_s": Metric(
        "accurate goodput/s", lambda score: score.joint_goodput_per_s, digits=1
    ),
    "p50_s": Metric("p50, ms", lambda score: score.latency_s.get("p50"), 1e3),
    "p95_s": Metric("p95, ms", lambda score: score.latency_s.get("p95"), 1e3),
    "p99_s": Metric("p99, ms", lambda score: score.latency_s.get("p99"), 1e3),
    "mean_batch_size": Metric("batch", lambda score: score.mean_batch_size),
    "switches_per_1000_batches": Metric(
        "switches/1,000", lambda score: score.switches_per_1000_batches, digits=0
    ),
    "fairness": Metric("fairness", lambda score: score.fairness, digits=3),
    "replica_s_per_1000_on_time": Metric(
        "replica s/1,000", lambda score: score.replica_s_per_1000_on_time
    ),
}

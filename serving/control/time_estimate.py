"""Estimates the time that a job still needs from the jobs before it.

The time left is the sum over the stages to come of the median time that they took before, the
present stage less what is done of it. Jobs with the same techniques count, or all if there are
none. The time in the queue is not part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Final

from serving.control.state import STAGES, Job, JobStage

_WAITING: Final = frozenset({"queued", "published"})


def typical_seconds(job: Job, former: Iterable[Job]) -> Mapping[JobStage, float]:
    """Return the median seconds of each stage in the jobs most like `job`; empty without any."""
    candidates = [each for each in former if each.kind == job.kind]
    same = [each for each in candidates if _techniques(each) == _techniques(job)]
    return _medians(same or candidates)


def estimate_s(job: Job, typical: Mapping[JobStage, float], in_stage_s: float) -> float | None:
    """Return the seconds that a job needs until it ends, or None if nothing is known of them.

    `in_stage_s` is the time that the job has spent in its present stage.
    """
    if not typical:
        return None
    stages = STAGES if job.kind != "remove" else ("queued", "draining")
    present = stages.index(job.stage)
    left = 0.0
    for stage in stages[present:]:
        if stage in _WAITING:
            continue
        usual = typical.get(stage, 0.0)
        # A stage reports its share rarely; the clock tells more until it is over its usual time.
        done = max(usual * job.share, min(in_stage_s, usual)) if stage == job.stage else 0.0
        left += usual - done
    return left


def _techniques(job: Job) -> tuple[str, ...]:
    return tuple(step.technique for step in job.recipe or ())


def _medians(jobs: Sequence[Job]) -> Mapping[JobStage, float]:
    stages: Sequence[JobStage] = (*STAGES, "draining")
    times = {
        stage: [j.stage_seconds[stage] for j in jobs if stage in j.stage_seconds]
        for stage in stages
    }
    return {stage: median(seconds) for stage, seconds in times.items() if seconds}

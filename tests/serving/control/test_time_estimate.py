from __future__ import annotations

import pytest

from serving.control.state import Job, JobKind, JobStage
from serving.control.time_estimate import estimate_s, typical_seconds
from variants.catalog.recipe import Recipe, Step

INT8: Recipe = (Step(technique="int8"),)
PRUNED: Recipe = (Step(technique="activation-pruning"), Step(technique="int8"))
TIMES = {"queued": 100.0, "techniques": 10.0, "evaluation": 4.0, "profiling": 6.0, "warming": 2.0}


def job(
    stage: JobStage = "queued",
    share: float = 0.0,
    kind: JobKind = "build",
    recipe: Recipe | None = INT8,
    seconds: dict[str, float] | None = None,
) -> Job:
    return Job(
        id="1",
        kind=kind,
        variant="int8",
        generation=1,
        status="running",
        stage=stage,
        share=share,
        recipe=recipe,
        actor="ana",
        created_at=0.0,
        stage_seconds=seconds or {},
    )


def test_nothing_is_known_without_former_jobs_of_this_kind() -> None:
    removal = job("draining", kind="remove", seconds={"draining": 2.0})
    assert estimate_s(job(), typical_seconds(job(), [removal]), 0.0) is None


@pytest.mark.parametrize(
    ("stage", "share", "in_stage_s", "expected"),
    [
        pytest.param("queued", 0.0, 50.0, 22.0, id="all stages but the queue"),
        pytest.param("techniques", 0.0, 0.0, 22.0, id="begun"),
        pytest.param("techniques", 0.3, 0.0, 19.0, id="by the share that is done"),
        pytest.param("techniques", 0.3, 5.0, 17.0, id="by the clock between two reports"),
        pytest.param("techniques", 0.3, 99.0, 12.0, id="longer than usual"),
        pytest.param("recovery", 0.5, 1.0, 12.0, id="a stage that former jobs skipped"),
        pytest.param("warming", 0.0, 1.5, 0.5, id="the last stage"),
    ],
)
def test_the_time_left_is_that_of_the_stages_to_come(
    stage: JobStage, share: float, in_stage_s: float, expected: float
) -> None:
    present = job(stage, share)
    typical = typical_seconds(present, [job(seconds=TIMES)])
    assert estimate_s(present, typical, in_stage_s) == pytest.approx(expected)


def test_the_median_of_jobs_with_the_same_techniques_counts() -> None:
    same = [job(seconds={"techniques": time}) for time in (1.0, 2.0, 9.0)]
    other = job(recipe=PRUNED, seconds={"techniques": 100.0})
    assert typical_seconds(job(), [*same, other]) == {"techniques": 2.0}
    assert typical_seconds(job(recipe=PRUNED), [*same, other]) == {"techniques": 100.0}
    assert typical_seconds(job(recipe=()), [*same, other]) == {"techniques": 5.5}


def test_a_publication_needs_only_the_time_to_warm_up() -> None:
    former = job(kind="publish", seconds={"warming": 3.0})
    present = job("warming", kind="publish")
    assert estimate_s(present, typical_seconds(present, [former]), 1.0) == 2.0


def test_a_removal_needs_the_time_to_drain() -> None:
    former = job(kind="remove", recipe=None, seconds={"draining": 3.0})
    present = job("draining", kind="remove", recipe=None)
    assert estimate_s(present, typical_seconds(present, [former]), 1.0) == 2.0

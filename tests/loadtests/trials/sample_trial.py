"""A small trial for tests: eight requests, three classes, five batches.

request  arrived  class   outcome           batch
0        0.0      strict  dense at 0.5      2
1        0.0      strict  dense at 0.5      2
2        1.0      strict  tiny  at 1.5      1   on time, below its floor
3        1.5      strict  dense at 3.0      1   late
4        2.0      lax     dense at 3.0      1
5        2.5      lax     shed at 2.5
6        3.0      pinned  tiny  at 3.25     1
7        3.5      strict  expired at 4.5
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from loadtests.trials.outcomes import Batches, Outcomes, RequestStatus
from loadtests.trials.runs import Condition, Run, Trial
from loadtests.trials.scores import score
from loadtests.workload.workload import SloClass, Workload
from serving.routing.slo import Slo

ACCURACY = {"dense": 0.95, "tiny": 0.8}

WORKLOAD = Workload(
    name="eight requests",
    arrivals_s=np.array([0.0, 0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]),
    class_of=np.array([0, 0, 0, 0, 1, 1, 2, 0], np.int16),
    classes=(
        SloClass("strict", Slo(latency_s=1.0, min_accuracy=0.9), share=5),
        SloClass("lax", Slo(), share=2),
        SloClass("pinned", Slo(latency_s=0.5, min_accuracy=0.9, variant="tiny")),
    ),
    seconds=4.0,
)

BATCHES = Batches(
    variant=np.array([0, 1, 0, 0, 1], np.int16),
    size=np.array([2, 1, 1, 1, 1], np.int32),
    sent_s=np.array([0.1, 1.1, 2.0, 2.5, 3.0]),
    predicted_s=np.array([0.5, 0.3, 1.2, 0.5, 0.5]),
    took_s=np.array([0.4, 0.4, 1.0, 0.5, 0.25]),
)

OUTCOMES = Outcomes(
    workload=WORKLOAD,
    policy="slack",
    variants=("dense", "tiny"),
    status=np.array([1, 1, 1, 1, 1, RequestStatus.SHED, 1, RequestStatus.EXPIRED], np.int8),
    variant=np.array([0, 0, 1, 0, 0, -1, 1, -1], np.int16),
    finished_s=np.array([0.5, 0.5, 1.5, 3.0, 3.0, 2.5, 3.25, 4.5]),
    batch_size=np.array([2, 2, 1, 1, 1, 0, 1, 0], np.int32),
    batches=BATCHES,
)


def unanswered_outcomes(policy: str = "none") -> Outcomes:
    """Return outcomes of the same requests without any response."""
    count = len(WORKLOAD)
    return replace(
        OUTCOMES,
        policy=policy,
        status=np.zeros(count, np.int8),
        variant=np.full(count, -1, np.int16),
        finished_s=np.full(count, np.nan),
        batch_size=np.zeros(count, np.int32),
        batches=Batches(
            variant=np.array([], np.int16),
            size=np.array([], np.int32),
            sent_s=np.array([]),
            predicted_s=np.array([]),
            took_s=np.array([]),
        ),
    )


def trial(
    settings: Sequence[tuple[float | None, float | None, float | None]] = ((None, None, None),),
    seeds: int = 2,
) -> Trial:
    """Return a trial of three policies under conditions of these loads, CV2s and SLO factors.

    `slack` has an attainment of 0.9, 0.88, ... by seed, `worse` 0.1 less; `none` answers nothing.
    """
    answered, unanswered = (
        score(OUTCOMES, ACCURACY, bound=0.89),
        score(unanswered_outcomes(), ACCURACY),
    )
    runs: list[Run] = []
    for load, cv2, slo_factor in settings:
        condition = Condition(kind="gamma", load=load, cv2=cv2, slo_factor=slo_factor)
        for seed in range(seeds):
            attainment = 0.9 - 0.02 * seed
            worse = {"policy": "worse", "attainment": attainment - 0.1}
            scores = (
                answered.model_copy(update={"attainment": attainment}),
                answered.model_copy(update=worse),
                unanswered,
            )
            runs += [Run(condition=condition, seed=seed, score=each) for each in scores]
    return Trial(title="A trial", note="a note", runs=tuple(runs))

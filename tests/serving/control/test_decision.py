"""Decisions on states that a test writes down; `test_reconciler` has whole courses of events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from serving.control.actions import Action, Delete, Drained, Fail, Publish, Routed, SetError
from serving.control.cluster import App
from serving.control.decision import UNDRAINED_S, UNROUTED_S, UNUSABLE_S, Observation, decide
from serving.control.state import Generation, Job, Lineup, ReplicaReport, Snapshot, VariantRecord

NOW = 1000.0
UP = App("running")
Seen = Mapping[str, tuple[Any, int]]
"""State and number of replicas that each gateway reports."""


def generation(number: int, state: Any, since: float = NOW, **fields: Any) -> Generation:
    values = {"recipe": (), "digest": "d", "created_at": 0.0, "since": since, **fields}
    return Generation(variant="v", number=number, state=state, **values)


def actions(
    *generations: Generation,
    apps: Mapping[int, App],
    seen: Mapping[int, Seen],
    gateways: str = "ab",
    replicas: int = 2,
    job_of: int | None = None,
    rollback_window_s: float = 0.0,
    in_gateways: str = "",
) -> list[Action]:
    """Return what is decided on one variant.

    A warming generation has a job, and so has the generation `job_of`, which a job has published.
    """
    published = {each.variant: each.number for each in generations if each.state == "published"}
    warming = {each.variant: each.number for each in generations if each.state == "warming"}
    job = Job(
        id="job",
        kind="publish",
        variant="v",
        generation=warming.get("v", job_of),
        status="running",
        stage="warming" if warming else "published",
        share=0.0,
        recipe=None,
        actor="me",
        created_at=0.0,
    )
    state = Snapshot(
        lineup=Lineup(revision=1, published=published, warming=warming),
        variants=(VariantRecord(name="v", published=published.get("v"), generations=generations),),
        jobs=(job,) if job.generation is not None else (),
        reports=tuple(
            ReplicaReport(
                gateway=name,
                variant="v",
                generation=number,
                state=state,
                replicas=count,
                error="it failed" if state == "failed" or not count else None,
                at=NOW,
            )
            for number, reports in seen.items()
            for name, (state, count) in reports.items()
        ),
        gateways=frozenset(gateways),
        at=NOW,
    )
    running = {("v", number): app for number, app in apps.items()}
    return decide(
        state,
        Observation(
            apps=running,
            builds=set(),
            replicas=replicas,
            rollback_window_s=rollback_window_s,
            in_gateways=set(in_gateways),
        ),
    )


@pytest.mark.parametrize(
    ("seen", "is_published"),
    [
        ({"a": ("warm", 2), "b": ("warm", 2)}, True),
        ({"a": ("warm", 2), "b": ("warm", 1)}, False),
        ({"a": ("warm", 2), "b": ("starting", 2)}, False),
        ({"a": ("warm", 2)}, False),
        ({}, False),
    ],
)
def test_a_generation_is_published_once_all_gateways_have_timed_all_its_replicas(
    seen: Seen, is_published: bool
) -> None:
    decided = actions(generation(2, "warming"), apps={2: UP}, seen={2: seen})
    assert decided == ([Publish("v", 2)] if is_published else [])


def test_a_generation_is_not_published_while_its_hosts_are_stopped() -> None:
    warm: Seen = {"a": ("warm", 2), "b": ("warm", 2)}
    assert actions(generation(2, "warming"), apps={2: App("stopping")}, seen={2: warm}) == []
    assert actions(generation(2, "warming"), apps={2: UP}, seen={2: warm}, gateways="") == []


@pytest.mark.parametrize(
    ("seen", "waited_s", "is_over"),
    [
        pytest.param({"a": ("routed", 2), "b": ("routed", 2)}, 0.0, True, id="all route to it"),
        pytest.param({"a": ("routed", 2), "b": ("warm", 2)}, 0.0, False, id="one does not"),
        pytest.param({"a": ("routed", 2)}, 0.0, False, id="one has not reported"),
        pytest.param(
            {"a": ("routed", 2), "b": ("failed", 0)}, UNROUTED_S + 1, True, id="one cannot"
        ),
    ],
)
def test_a_job_is_over_once_all_gateways_route_to_what_it_published(
    seen: Seen, waited_s: float, is_over: bool
) -> None:
    new = generation(2, "published", published_at=NOW - waited_s)
    decided = actions(new, apps={2: UP}, seen={2: seen}, job_of=2)
    assert (Routed("v") in decided) == is_over


def test_a_job_is_over_once_what_it_published_was_replaced() -> None:
    decided = actions(generation(2, "draining"), apps={2: UP}, seen={}, job_of=2)
    assert Routed("v") in decided


def test_a_job_is_not_over_while_no_gateway_lives() -> None:
    assert actions(generation(2, "published"), apps={2: UP}, seen={}, gateways="", job_of=2) == []


@pytest.mark.parametrize(
    ("new", "old", "waited_s", "is_deleted"),
    [
        ({"a": ("routed", 2), "b": ("routed", 2)}, {}, 0.0, True),
        ({"a": ("routed", 2), "b": ("starting", 2)}, {}, 0.0, False),
        ({"a": ("routed", 2)}, {}, UNDRAINED_S + 1, False),
        ({"a": ("routed", 2), "b": ("routed", 2)}, {"b": ("draining", 1)}, 0.0, False),
        ({"a": ("routed", 2), "b": ("routed", 2)}, {"b": ("draining", 1)}, UNDRAINED_S + 1, True),
        ({"a": ("routed", 2), "b": ("routed", 2)}, {"dead": ("routed", 1)}, 0.0, True),
    ],
)
def test_the_former_generation_is_stopped_once_nobody_needs_it(
    new: Seen, old: Seen, waited_s: float, is_deleted: bool
) -> None:
    decided = actions(
        generation(1, "draining", NOW - waited_s),
        generation(2, "published"),
        apps={1: UP, 2: UP},
        seen={1: old, 2: new},
    )
    assert decided == ([Delete("v", 1)] if is_deleted else [])


def test_the_last_generation_that_was_replaced_keeps_its_hosts_in_the_rollback_window() -> None:
    generations = [
        generation(1, "draining", NOW - 6),
        generation(2, "draining", NOW - 5),
        generation(3, "published", NOW - 5),
    ]
    apps = {1: UP, 2: UP, 3: UP}
    seen: dict[int, Seen] = {3: {"a": ("routed", 2), "b": ("routed", 2)}}
    assert actions(*generations, apps=apps, seen=seen, rollback_window_s=9) == [Delete("v", 1)]
    both = [Delete("v", 1), Delete("v", 2)]
    assert actions(*generations, apps=apps, seen=seen, rollback_window_s=4) == both
    starting = generation(4, "warming")
    assert Delete("v", 2) in actions(
        *generations, starting, apps=apps, seen=seen, rollback_window_s=9
    )
    removed = generations[:2]
    assert actions(*removed, apps={1: UP, 2: UP}, seen={}, rollback_window_s=9) == both


def test_a_removed_variant_keeps_its_hosts_while_a_gateway_routes_to_it() -> None:
    draining = generation(1, "draining")
    assert actions(draining, apps={1: UP}, seen={1: {"a": ("routed", 2)}}) == []
    assert actions(draining, apps={1: UP}, seen={}) == [Delete("v", 1)]
    assert actions(draining, apps={1: UP}, seen={}, gateways="") == [], "it is not known who does"


def test_hosts_that_a_gateway_cannot_use_fail_a_generation_after_a_while() -> None:
    """A host may have been killed just now, and the cluster replaces it."""
    failed: Seen = {"a": ("warm", 2), "b": ("failed", 0)}
    assert actions(generation(2, "warming"), apps={2: UP}, seen={2: failed}) == []
    late = generation(2, "warming", NOW - UNUSABLE_S - 1)
    assert actions(late, apps={2: UP}, seen={2: failed}) == [
        Fail("job", "it failed"),
        Delete("v", 2),
    ]


def test_the_error_of_a_published_generation_is_cleared_once_it_is_routed_again() -> None:
    broken = generation(1, "published", error="it failed")
    routed: Seen = {"a": ("routed", 2), "b": ("routed", 2)}
    assert actions(broken, apps={1: UP}, seen={1: {"a": ("failed", 0)}}) == []
    assert actions(broken, apps={1: UP}, seen={1: routed}) == [SetError("v", 1, None)]


FAILING = App("failing", "model.onnx is missing")


@pytest.mark.parametrize(
    ("app", "seen", "is_stopped"),
    [
        pytest.param(FAILING, {"a": ("routed", 0), "b": ("routed", 0)}, True, id="no host works"),
        pytest.param(FAILING, {"a": ("routed", 1), "b": ("routed", 0)}, False, id="one works"),
        pytest.param(FAILING, {}, False, id="no gateway knows"),
        pytest.param(UP, {"a": ("routed", 0), "b": ("routed", 0)}, False, id="it is replaced"),
    ],
)
def test_hosts_of_a_published_generation_that_cannot_start_again_are_tried_with_growing_pauses(
    app: App, seen: Seen, is_stopped: bool
) -> None:
    decided = actions(generation(1, "published"), apps={1: app}, seen={1: seen})
    assert (Delete("v", 1, failed=True) in decided) == is_stopped
    if is_stopped:
        assert decided[0] == SetError("v", 1, "model.onnx is missing")


def test_nothing_is_deployed_for_a_variant_that_gateways_compute() -> None:
    for state in ("warming", "published"):
        assert actions(generation(1, state), apps={}, seen={}, in_gateways="v") == []


def test_a_generation_is_published_once_all_gateways_have_loaded_it() -> None:
    new = generation(2, "warming")
    one: Seen = {"a": ("warm", 1), "b": ("starting", 1)}
    assert actions(new, apps={}, seen={2: one}, in_gateways="v") == []
    both: Seen = {"a": ("warm", 1), "b": ("warm", 1)}
    assert actions(new, apps={}, seen={2: both}, in_gateways="v") == [Publish("v", 2)]


def test_a_generation_that_gateways_have_replaced_is_drained_once_none_has_it() -> None:
    generations = (generation(1, "draining"), generation(2, "published"))
    routed: Seen = {"a": ("routed", 1), "b": ("routed", 1)}
    old: Seen = {"b": ("draining", 1)}
    seen: dict[int, Seen] = {1: old, 2: routed}
    assert actions(*generations, apps={}, seen=seen, in_gateways="v") == []
    decided = actions(
        *generations, apps={}, seen={2: routed}, in_gateways="v", rollback_window_s=60
    )
    assert decided == [Drained("v", 1)], "its memory is free, so it is not kept for a rollback"


def test_a_generation_that_a_gateway_cannot_load_says_why_and_fails_after_a_while() -> None:
    failed: Seen = {"a": ("warm", 1), "b": ("failed", 0)}
    new = generation(2, "warming")
    assert actions(new, apps={}, seen={2: failed}, in_gateways="v") == [
        SetError("v", 2, "it failed")
    ]
    late = generation(2, "warming", NOW - UNUSABLE_S - 1)
    decided = actions(late, apps={}, seen={2: failed}, in_gateways="v")
    assert decided[0] == Fail("job", "it failed")
    for seen in (failed, {"a": ("routed", 0)}):
        decided = actions(generation(2, "published"), apps={}, seen={2: seen}, in_gateways="v")
        assert decided == [SetError("v", 2, "it failed")]


def test_hosts_from_before_a_variant_moved_into_the_gateways_are_stopped() -> None:
    published = generation(1, "published")
    assert actions(published, apps={1: UP}, seen={}, in_gateways="v") == [Delete("v", 1)]
    assert actions(published, apps={1: App("stopping")}, seen={}, in_gateways="v") == []

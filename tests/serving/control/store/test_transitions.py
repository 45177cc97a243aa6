from __future__ import annotations

from collections.abc import Callable

import pytest

from serving.control.state import STAGES
from serving.control.store.changes import IllegalTransition
from serving.control.store.store import Store
from serving.control.store.transitions import LINE_LENGTH, LOG_LINES
from serving.errors import ModelNotFound
from tests.serving.control.store.conftest import Clock
from tests.serving.control.store.states import (
    INT8,
    PRUNED,
    add,
    build,
    gate,
    publish,
    serve,
    states,
)


def test_a_build_passes_through_its_stages_and_keeps_the_time_of_each(
    store: Store, clock: Clock
) -> None:
    job = add(store)
    clock.now += 5
    assert store.start_job(job.id).generation == 1
    assert states(store) == ["building"]
    for seconds, stage in enumerate(STAGES[1:6], start=1):
        job = store.report_progress(job.id, stage, 0.0)
        clock.now += seconds
        job = store.report_progress(job.id, stage, 1.0)
        assert (job.stage, job.share, job.heartbeat_at) == (stage, 1.0, clock.now)
    store.built(job.id, "d" * 64, gate())
    assert store.lineup().warming == {"int8": 1}
    clock.now += 10
    store.publish("int8", 1, 2.5)
    published_at = clock.now
    job = store.job(job.id)
    assert (job.status, job.stage, job.share) == ("running", "published", 0.0)
    clock.now += 1
    store.routed("int8")
    job = store.job(job.id)
    assert (job.status, job.stage, job.share) == ("succeeded", "published", 1.0)
    assert job.stage_seconds == {
        "queued": 5, "techniques": 1, "recovery": 2, "evaluation": 3, "profiling": 4, "gate": 5,
        "warming": 10, "published": 1,
    }  # fmt: skip
    generation = store.generation("int8", 1)
    assert (generation.digest, generation.gate, generation.probe_s) == ("d" * 64, gate(), 2.5)
    assert generation.published_at == generation.since == published_at
    assert job.ended_at == clock.now
    assert store.lineup().published == {"int8": 1}


def test_replacing_drains_the_former_generation_in_the_same_moment(store: Store) -> None:
    serve(store)
    job = build(store, store.submit_build("int8", INT8, "ana", must_exist=True))
    assert (store.lineup().published, store.lineup().warming) == ({"int8": 1}, {"int8": 2})
    publish(store, "int8", 2)
    assert (store.lineup().published, store.lineup().warming) == ({"int8": 2}, {})
    assert states(store) == ["draining", "published"]
    store.drained("int8", 1)
    assert states(store) == ["kept", "published"]
    assert store.job(job.id).status == "succeeded"


def test_a_failed_load_leaves_the_served_generation_as_it_was(store: Store) -> None:
    serve(store)
    job = build(store, store.submit_build("int8", INT8, "ana", must_exist=True))
    before = store.generation("int8", 1)
    store.fail(job.id, "model.onnx is damaged")
    assert store.generation("int8", 1) == before
    assert store.lineup().published == {"int8": 1}
    assert store.lineup().warming == {}
    assert store.generation("int8", 2).error == "model.onnx is damaged"
    assert (store.job(job.id).status, store.job(job.id).error) == (
        "failed",
        "model.onnx is damaged",
    )


def test_a_generation_that_could_not_be_loaded_can_be_tried_again(store: Store) -> None:
    store.fail(build(store, add(store)).id, "no memory")
    store.submit_publish("int8", 1, "bo")
    assert store.generation("int8", 1).error is None
    publish(store, "int8", 1)
    assert states(store) == ["published"]


def test_a_lost_builder_is_started_again_with_the_same_generation(store: Store) -> None:
    first, second = add(store), add(store, "half")
    store.start_job(first.id)
    store.report_progress(first.id, "profiling", 0.7)
    job = store.requeue(first.id, "the builder was lost")
    assert (job.status, job.stage, job.share, job.attempts) == ("queued", "queued", 0.0, 1)
    assert job.started_at is job.heartbeat_at is None
    assert [job.id for job in store.snapshot(1.0).jobs] == [first.id, second.id]
    job = store.start_job(first.id)
    assert (job.generation, job.attempts, job.stage) == (1, 2, "techniques")
    assert len(store.variant("int8").generations) == 1
    assert (store.history(1)[0].action, store.history(1)[0].details) == (
        "requeued",
        "the builder was lost",
    )


def test_a_generation_is_probed_again_before_it_is_published_again(store: Store) -> None:
    build(store, add(store))
    store.publish("int8", 1, 2.5)
    store.routed("int8")
    assert store.generation("int8", 1).probe_s == 2.5
    serve(store)
    store.submit_publish("int8", 1, "bo")
    assert store.generation("int8", 1).probe_s is None


def test_a_variant_that_was_removed_and_published_again_follows_the_catalog_again(
    store: Store,
) -> None:
    store.adopt("int8", "1" * 64, INT8)
    store.submit_remove("int8", "ana", force=True)
    store.removed("int8")
    store.submit_publish("int8", 1, "ana")
    publish(store, "int8", 1)
    assert store.adopt("int8", "2" * 64, INT8) == 2
    assert store.lineup().published == {"int8": 2}


def test_numbers_of_generations_are_never_used_again(store: Store) -> None:
    for number in (1, 2, 3):
        job = store.start_job(add(store).id)
        assert job.generation == number
        store.fail(job.id, "broken")


def test_the_last_error_of_a_generation_is_set_and_cleared(store: Store) -> None:
    serve(store)
    revision = store.revision()
    store.set_error("int8", 1, "a host was lost")
    assert store.generation("int8", 1).error == "a host was lost"
    store.set_error("int8", 1, None)
    assert store.generation("int8", 1).error is None
    assert store.revision() == revision


def test_the_log_of_a_job_is_bounded_and_can_be_followed(store: Store) -> None:
    job = add(store)
    for line in ("one", "two", "x" * 10_000):
        store.log(job.id, line)
    lines = store.job_log(job.id)
    assert [(line.number, line.text) for line in lines[:2]] == [(1, "one"), (2, "two")]
    assert len(lines[2].text) == LINE_LENGTH
    assert store.job_log(job.id, after=1, limit=1) == lines[1:2]
    with pytest.raises(ModelNotFound, match="no job 'x'"):
        store.log("x", "line")


def test_a_log_ends_with_a_remark_when_it_is_full(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.control.store.transitions.LOG_LINES", 3)
    job = add(store)
    for number in range(5):
        store.log(job.id, f"line {number}")
    texts = [line.text for line in store.job_log(job.id)]
    assert texts == ["line 0", "line 1", "(further lines are not kept)"]
    assert LOG_LINES > 1000


def test_an_artifact_of_the_catalog_is_adopted_once(store: Store) -> None:
    assert store.adopt("dense", "d" * 64, ()) == 1
    revision = store.revision()
    assert store.adopt("dense", "d" * 64, ()) == 1
    assert store.revision() == revision
    assert store.lineup().published == {"dense": 1}
    assert [entry.action for entry in store.history()] == ["adopt"]


def test_an_artifact_that_was_built_again_by_hand_takes_the_place_of_the_former(
    store: Store,
) -> None:
    store.adopt("int8", "1" * 64, INT8)
    assert store.adopt("int8", "2" * 64, PRUNED) == 2
    assert states(store) == ["draining", "published"]


def test_the_catalog_does_not_undo_what_was_done_while_serving(store: Store) -> None:
    store.adopt("int8", "1" * 64, INT8)
    serve(store)
    assert store.adopt("int8", "1" * 64, INT8) == 1
    assert states(store) == ["kept", "published"]
    store.submit_remove("int8", "ana", force=True)
    store.removed("int8")
    store.adopt("int8", "1" * 64, INT8)
    store.adopt("int8", "2" * 64, INT8)
    assert store.lineup().published == {}
    assert states(store) == ["kept", "kept", "kept"]


def test_an_artifact_is_adopted_without_publishing_it(store: Store) -> None:
    assert store.adopt("int8", "1" * 64, INT8, "ana", publish=False) == 1
    assert states(store) == ["kept"]
    store.submit_publish("int8", 1, "ana")
    assert store.history(1)[0].action == "publish"


def prepare(store: Store) -> tuple[str, str, str]:
    """Return a build that is queued, one that warms up, and one that is over.

    That of the variant `new` is published and not routed yet.
    """
    over = add(store, "over")
    build(store, over)
    publish(store, "over", 1)
    build(store, add(store, "new"))
    store.publish("new", 1)
    warming = build(store, add(store, "warm"))
    return add(store, "queued").id, warming.id, over.id


def published_job(store: Store) -> str:
    return next(job.id for job in store.jobs() if job.variant == "new")


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda s, q, w, o: s.start_job(w), id="start what runs"),
        pytest.param(lambda s, q, w, o: s.start_job(o), id="start what is over"),
        pytest.param(lambda s, q, w, o: s.report_progress(q, "recovery", 0), id="progress: queued"),
        pytest.param(lambda s, q, w, o: s.report_progress(w, "recovery", 0), id="progress: warm"),
        pytest.param(lambda s, q, w, o: s.report_progress(o, "recovery", 0), id="progress: over"),
        pytest.param(lambda s, q, w, o: s.built(q, "d" * 64, gate()), id="built: queued"),
        pytest.param(lambda s, q, w, o: s.built(w, "d" * 64, gate()), id="built twice"),
        pytest.param(lambda s, q, w, o: s.fail(o, "late"), id="fail what is over"),
        pytest.param(
            lambda s, q, w, o: s.fail(published_job(s), "late"), id="fail what is published"
        ),
        pytest.param(
            lambda s, q, w, o: s.requeue(published_job(s), "lost"), id="requeue what is published"
        ),
        pytest.param(lambda s, q, w, o: s.routed("over"), id="routed twice"),
        pytest.param(lambda s, q, w, o: s.routed("warm"), id="routed before it is published"),
        pytest.param(lambda s, q, w, o: s.routed("none"), id="routed: unknown"),
        pytest.param(lambda s, q, w, o: s.requeue(q, "lost"), id="requeue what is queued"),
        pytest.param(lambda s, q, w, o: s.requeue(w, "lost"), id="requeue what is built"),
        pytest.param(lambda s, q, w, o: s.cancelled(q), id="nobody cancelled it"),
        pytest.param(lambda s, q, w, o: s.publish("over", 1), id="publish twice"),
        pytest.param(lambda s, q, w, o: s.publish("queued", 1), id="publish what is not built"),
        pytest.param(lambda s, q, w, o: s.publish("warm", 2), id="publish another"),
        pytest.param(lambda s, q, w, o: s.drained("over", 1), id="drained: published"),
        pytest.param(lambda s, q, w, o: s.drained("warm", 1), id="drained: warming"),
        pytest.param(lambda s, q, w, o: s.drained("none", 1), id="drained: unknown"),
        pytest.param(lambda s, q, w, o: s.removed("over"), id="nobody removes it"),
    ],
)
def test_an_illegal_step_raises_and_changes_nothing(
    store: Store, step: Callable[[Store, str, str, str], object]
) -> None:
    jobs = prepare(store)
    before = store.snapshot(1.0), store.jobs(), store.history()
    with pytest.raises(IllegalTransition):
        step(store, *jobs)
    assert (store.snapshot(1.0), store.jobs(), store.history()) == before


def test_the_stages_of_a_build_never_go_back_and_only_a_builder_reports_them(
    store: Store,
) -> None:
    job = store.start_job(add(store).id)
    store.report_progress(job.id, "evaluation", 0.5)
    for stage in ("techniques", "queued", "warming", "published", "draining"):
        with pytest.raises(IllegalTransition):
            store.report_progress(job.id, stage, 0.5)


def test_the_revision_grows_only_when_somebody_has_something_to_do(store: Store) -> None:
    job = add(store)
    submitted = store.revision()
    assert submitted > 0
    store.start_job(job.id)
    started = store.revision()
    assert started > submitted
    store.report_progress(job.id, "recovery", 0.5)
    store.log(job.id, "a line")
    store.report("gateway", [])
    store.acquire_lease("reconciler", "gateway", 5)
    assert store.revision() == started
    store.built(job.id, "d" * 64, gate())
    built = store.revision()
    assert built > started
    publish(store, "int8", 1)
    published = store.revision()
    assert published > built
    job = store.start_job(store.submit_build("int8", INT8, "ana", must_exist=True).id)
    before = store.revision()
    store.cancel(job.id, "ana")
    assert store.revision() > before

from __future__ import annotations

from collections.abc import Callable

import pytest

from serving.control.store.store import Store
from serving.errors import Conflict, InvalidRequest, ModelNotFound, ServingError
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


def test_a_submitted_build_is_queued_and_has_no_generation_yet(store: Store) -> None:
    job = add(store)
    assert (job.kind, job.status, job.stage, job.generation) == ("build", "queued", "queued", None)
    assert (job.recipe, job.actor, job.created_at) == (INT8, "ana", 1000.0)
    assert store.job(job.id) == job
    assert store.variants() == ()


@pytest.mark.parametrize(
    "name", ["", "Int8", "../int8", "int8/..", "int8\n", "-int8", "x" * 64, "int 8", "é"]
)
def test_a_name_that_is_no_name_of_a_variant_is_refused(store: Store, name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot name a variant"):
        store.submit_build(name, INT8, "ana", must_exist=False)


def test_dense_is_never_built(store: Store) -> None:
    with pytest.raises(InvalidRequest, match="without compression"):
        store.submit_build("dense", INT8, "ana", must_exist=False)


def test_the_same_key_and_body_give_the_same_job_in_any_state(store: Store) -> None:
    def submit() -> str:
        return store.submit_build(
            "int8", INT8, "ana", must_exist=False, idempotency_key="k", body_sha256="a"
        ).id

    first = submit()
    assert submit() == first
    build(store, store.job(first))
    publish(store, "int8", 1)
    assert submit() == first
    assert len(store.jobs()) == 1


def test_a_key_with_another_body_is_a_conflict_that_names_the_job(store: Store) -> None:
    job = store.submit_build(
        "int8", INT8, "ana", must_exist=False, idempotency_key="k", body_sha256="a"
    )
    with pytest.raises(Conflict, match=f"made job {job.id}; use a new key"):
        store.submit_remove("other", "ana", idempotency_key="k", body_sha256="b")


def test_two_actors_may_use_the_same_key(store: Store) -> None:
    for actor, name in (("ana", "int8"), ("bo", "half")):
        store.submit_build(
            name, INT8, actor, must_exist=False, idempotency_key="k", body_sha256=name
        )
    assert len(store.jobs()) == 2


def test_publishing_and_removing_are_idempotent_too(store: Store) -> None:
    serve(store, "half")
    serve(store)
    for _ in range(2):
        removal = store.submit_remove("int8", "ana", idempotency_key="r", body_sha256="r")
    store.removed("int8")
    for _ in range(2):
        publication = store.submit_publish("int8", 1, "ana", idempotency_key="p", body_sha256="p")
    ids = [job.id for job in store.jobs()]
    assert ids[:2] == [publication.id, removal.id]
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("request_of", "error", "message"),
    [
        pytest.param(
            lambda s: s.submit_build("int8", PRUNED, "bo", must_exist=False),
            Conflict,
            "int8 is served already, as generation 1; replace it",
            id="adding what is served",
        ),
        pytest.param(
            lambda s: s.submit_build("int4", INT8, "bo", must_exist=True),
            ModelNotFound,
            "no variant 'int4'; there are half, int8",
            id="replacing what does not exist",
        ),
        pytest.param(
            lambda s: s.submit_build("int4", INT8, "bo", must_exist=False, force=True),
            InvalidRequest,
            "force needs a reason",
            id="forcing without a reason",
        ),
        pytest.param(
            lambda s: s.submit_publish("int8", 1, "bo"),
            Conflict,
            "int8@1 is published already",
            id="publishing what is published",
        ),
        pytest.param(
            lambda s: s.submit_publish("int8", 7, "bo"),
            ModelNotFound,
            "int8 has no generation 7; there are 1",
            id="publishing an unknown generation",
        ),
        pytest.param(
            lambda s: s.submit_publish("int4", 1, "bo"),
            ModelNotFound,
            "no variant 'int4'; there are half, int8",
            id="publishing an unknown variant",
        ),
        pytest.param(
            lambda s: s.submit_remove("int4", "bo"),
            ModelNotFound,
            "no variant 'int4'; there are half, int8",
            id="removing what does not exist",
        ),
        pytest.param(
            lambda s: s.cancel("nothing", "bo"),
            ModelNotFound,
            "no job 'nothing'",
            id="cancelling an unknown job",
        ),
    ],
)
def test_a_request_against_the_state_changes_nothing_and_says_what_would_be_right(
    store: Store, request_of: Callable[[Store], object], error: type[ServingError], message: str
) -> None:
    serve(store, "half")
    serve(store)
    before = store.revision(), store.jobs(), store.history(), store.variants()
    with pytest.raises(error, match=message):
        request_of(store)
    assert (store.revision(), store.jobs(), store.history(), store.variants()) == before


def test_a_variant_has_one_job_at_a_time_and_the_conflict_names_it(store: Store) -> None:
    serve(store)
    job = store.submit_build("int8", INT8, "ana", must_exist=True)
    requests: list[Callable[[], object]] = [
        lambda: store.submit_build("int8", INT8, "bo", must_exist=True),
        lambda: store.submit_remove("int8", "bo", force=True),
    ]
    for request in requests:
        with pytest.raises(Conflict, match=job.id):
            request()
    store.cancel(job.id, "ana")
    store.submit_build("int8", INT8, "bo", must_exist=True)


def test_removing_keeps_the_files_and_the_variant_can_be_published_again(store: Store) -> None:
    serve(store, "half")
    serve(store)
    job = store.submit_remove("int8", "bo")
    assert (job.status, job.stage) == ("running", "draining")
    assert states(store) == ["draining"]
    assert store.lineup().published == {"half": 1}
    store.removed("int8")
    assert store.job(job.id).status == "succeeded"
    assert states(store) == ["kept"]
    with pytest.raises(Conflict, match="int8 is not served"):
        store.submit_remove("int8", "bo")
    with pytest.raises(Conflict, match="int8 is not served; add it instead"):
        store.submit_build("int8", INT8, "bo", must_exist=True)
    store.submit_publish("int8", 1, "bo")
    publish(store, "int8", 1)
    assert store.lineup().published == {"half": 1, "int8": 1}


def test_the_last_variant_is_removed_by_force_only(store: Store) -> None:
    serve(store)
    with pytest.raises(Conflict, match="int8 is the last variant"):
        store.submit_remove("int8", "bo")
    store.submit_remove("int8", "bo", force=True)
    assert store.lineup().published == {}


def test_a_job_that_has_published_cannot_be_cancelled(store: Store) -> None:
    job = build(store, add(store))
    store.publish("int8", 1)
    with pytest.raises(Conflict, match="int8 is published already; roll it back or remove it"):
        store.cancel(job.id, "bo")
    store.routed("int8")
    assert store.job(job.id).status == "succeeded"


def test_what_was_just_published_is_rolled_back_before_all_gateways_route_to_it(
    store: Store,
) -> None:
    serve(store)
    job = build(store, store.submit_build("int8", INT8, "ana", must_exist=True))
    store.publish("int8", 2)
    store.submit_publish("int8", 1, "bo")
    assert store.job(job.id).status == "succeeded"
    assert store.lineup().warming == {"int8": 1}


def test_a_rollback_needs_no_build_and_is_recorded_as_such(store: Store) -> None:
    serve(store)
    serve(store)
    job = store.submit_publish("int8", 1, "bo")
    assert (job.kind, job.status, job.stage) == ("publish", "running", "warming")
    assert store.lineup().warming == {"int8": 1}
    assert store.lineup().published == {"int8": 2}
    publish(store, "int8", 1)
    assert store.lineup().published == {"int8": 1}
    assert states(store) == ["published", "draining"]
    actions = [(each.actor, each.action, each.subject) for each in store.history(2)]
    assert actions == [("system", "published", "int8@1"), ("bo", "rollback", "int8@1")]


def test_a_generation_that_still_drains_is_taken_back(store: Store) -> None:
    serve(store)
    build(store, store.submit_build("int8", INT8, "ana", must_exist=True))
    publish(store, "int8", 2)
    assert states(store) == ["draining", "published"]
    job = store.submit_publish("int8", 1, "bo")
    assert states(store) == ["warming", "published"]
    store.cancel(job.id, "bo")
    assert states(store) == ["draining", "published"]
    store.submit_publish("int8", 1, "bo")
    publish(store, "int8", 1)
    assert states(store) == ["published", "draining"]


def test_what_the_gate_rejected_is_published_with_a_reason_that_is_recorded(store: Store) -> None:
    job = build(store, add(store), "fail")
    assert (job.status, states(store)) == ("rejected", ["rejected"])
    assert job.error == "the gate: fail: it loses 10 points"
    with pytest.raises(InvalidRequest, match="to publish it, give a reason"):
        store.submit_publish("int8", 1, "bo")
    store.submit_publish("int8", 1, "bo", reason="speed matters more")
    publish(store, "int8", 1)
    report = store.generation("int8", 1).gate
    assert report == gate("fail").model_copy(
        update={"overridden_by": "bo", "reason": "speed matters more"}
    )


def test_a_forced_build_is_published_in_spite_of_the_gate(store: Store) -> None:
    job = store.submit_build(
        "int8", INT8, "ana", must_exist=False, force=True, reason="a test of the gate"
    )
    assert build(store, job, "inconclusive").stage == "warming"
    publish(store, "int8", 1)
    report = store.generation("int8", 1).gate
    assert report is not None
    assert (report.overridden_by, report.reason) == ("ana", "a test of the gate")


def test_a_queued_job_is_cancelled_at_once(store: Store) -> None:
    job = add(store)
    cancelled = store.cancel(job.id, "bo")
    assert (cancelled.status, cancelled.error) == ("cancelled", "cancelled by bo")
    assert store.cancel(job.id, "bo") == cancelled
    assert store.jobs(active_only=True) == ()


def test_a_build_is_cancelled_when_its_builder_has_ended(store: Store) -> None:
    job = store.start_job(add(store).id)
    assert store.cancel(job.id, "bo").cancel_requested
    assert store.report_progress(job.id, "recovery", 0.5).cancel_requested
    assert store.cancelled(job.id).status == "cancelled"
    assert states(store) == ["failed"]


@pytest.mark.parametrize("end", ["built", "fail", "requeue", "cancelled"])
def test_a_cancelled_build_is_cancelled_however_its_builder_ends(store: Store, end: str) -> None:
    job = store.start_job(add(store).id)
    store.cancel(job.id, "bo")
    ends: dict[str, Callable[[], object]] = {
        "built": lambda: store.built(job.id, "d" * 64, gate()),
        "fail": lambda: store.fail(job.id, "killed"),
        "requeue": lambda: store.requeue(job.id, "lost"),
        "cancelled": lambda: store.cancelled(job.id),
    }
    ends[end]()
    assert (store.job(job.id).status, store.job(job.id).error) == ("cancelled", "cancelled by bo")
    assert states(store) == ["failed"]
    assert store.lineup().warming == {}


def test_an_artifact_that_was_built_in_spite_of_a_cancellation_can_be_published(
    store: Store,
) -> None:
    job = store.start_job(add(store).id)
    store.cancel(job.id, "bo")
    store.built(job.id, "d" * 64, gate())
    store.submit_publish("int8", 1, "ana")
    assert store.lineup().warming == {"int8": 1}


def test_a_cancelled_publication_leaves_the_generation_as_it_was(store: Store) -> None:
    serve(store)
    serve(store)
    build(store, store.submit_build("int8", INT8, "ana", must_exist=True), "fail")
    assert states(store) == ["kept", "published", "rejected"]
    for number in (1, 3):
        job = store.submit_publish("int8", number, "bo", reason="to see it")
        assert store.cancel(job.id, "bo").status == "cancelled"
        assert states(store) == ["kept", "published", "rejected"]
    assert store.generation("int8", 3).gate == gate("fail")


def test_a_build_that_is_cancelled_while_it_warms_up_is_kept(store: Store) -> None:
    job = build(store, add(store))
    store.cancel(job.id, "bo")
    assert states(store) == ["kept"]


def test_a_job_that_is_over_or_removes_a_variant_cannot_be_cancelled(store: Store) -> None:
    serve(store)
    with pytest.raises(Conflict, match="is over: succeeded"):
        store.cancel(store.jobs()[0].id, "bo")
    job = store.submit_remove("int8", "ana", force=True)
    with pytest.raises(Conflict, match="publish it again instead"):
        store.cancel(job.id, "bo")


def test_the_history_says_who_asked_for_what(store: Store) -> None:
    serve(store)
    store.submit_build("int8", INT8, "bo", must_exist=True)
    store.record("-", "login failed", "10.0.0.1")
    entries = store.history()
    assert [(each.actor, each.action, each.subject) for each in entries] == [
        ("-", "login failed", "10.0.0.1"),
        ("bo", "replace", "int8"),
        ("system", "published", "int8@1"),
        ("ana", "add", "int8"),
    ]
    assert store.history(limit=1, before=entries[1].number) == (entries[2],)


def test_the_last_variant_that_meets_the_default_slo_is_removed_by_force_only(store: Store) -> None:
    for name in ("int8", "half", "slow"):
        serve(store, name)
    meeting = {"int8", "half"}
    store.submit_remove("half", "bo", meeting_slo=meeting)
    # The caller has read what meets the SLO before the other one was removed.
    with pytest.raises(Conflict, match="int8 is the last variant that meets the default SLO"):
        store.submit_remove("int8", "bo", meeting_slo=meeting)
    store.submit_remove("int8", "bo", meeting_slo=meeting, force=True)
    assert store.lineup().published == {"slow": 1}

from __future__ import annotations

import pytest

from serving.control.store import retention
from serving.control.store.store import Store
from serving.errors import Conflict
from tests.serving.control.store.states import INT8, add, build, serve, states


def test_the_oldest_kept_generations_are_deleted(store: Store) -> None:
    for _ in range(5):
        serve(store)
    assert store.delete_old(3) == (("int8", 1),)
    assert states(store) == ["deleted", "kept", "kept", "kept", "published"]
    assert store.history(1)[0].action == "deleted"


def test_a_deletion_is_listed_until_it_is_confirmed(store: Store) -> None:
    for _ in range(3):
        serve(store)
    assert store.delete_old(0) == (("int8", 1), ("int8", 2))
    store.files_deleted("int8", 1)
    assert store.delete_old(0) == (("int8", 2),)
    store.files_deleted("int8", 2)
    assert store.delete_old(0) == ()


def test_only_a_deleted_generation_can_lose_its_files(store: Store) -> None:
    serve(store)
    serve(store)
    store.files_deleted("int8", 1)
    assert store.delete_old(0) == (("int8", 1),)


def test_failures_do_not_take_the_place_of_what_can_be_rolled_back_to(store: Store) -> None:
    serve(store)
    serve(store)
    for _ in range(3):
        job = store.start_job(store.submit_build("int8", INT8, "ana", must_exist=True).id)
        store.fail(job.id, "broken")
    assert store.delete_old(1) == (("int8", 3), ("int8", 4))
    assert states(store) == ["kept", "published", "deleted", "deleted", "failed"]


def test_what_is_served_or_in_progress_stays(store: Store) -> None:
    serve(store, "half")
    build(store, add(store))
    store.start_job(add(store, "pruned").id)
    serve(store, "other")
    store.submit_remove("other", "ana")
    before = store.variants()
    assert store.delete_old(0) == ()
    assert store.variants() == before


def test_a_deleted_generation_must_be_built_again(store: Store) -> None:
    serve(store)
    serve(store)
    store.delete_old(0)
    with pytest.raises(Conflict, match="int8@1 has no files on disk; build it again"):
        store.submit_publish("int8", 1, "ana")


def test_the_logs_of_old_jobs_are_deleted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "KEPT_LOGS", 2)
    jobs = [add(store, name) for name in ("a", "b", "c")]
    for job in jobs:
        store.log(job.id, "a line")
    store.delete_records(10, 10)
    assert [len(store.job_log(job.id)) for job in jobs] == [0, 1, 1]


def test_old_jobs_are_deleted_with_their_logs_once_they_are_over(store: Store) -> None:
    active = add(store, "active")
    for number in range(4):
        store.log(store.submit_build("int8", INT8, "ana", must_exist=False).id, "a line")
        store.cancel(store.jobs(limit=1)[0].id, "ana")
        assert len(store.jobs()) == number + 2
    kept = store.jobs(limit=2)
    store.delete_records(2, 100)
    assert store.jobs() == (*kept, store.job(active.id))
    assert [len(store.job_log(job.id)) for job in kept] == [1, 1]
    store.delete_records(3, 100)
    assert len(store.jobs()) == 3


def test_an_idempotency_key_is_forgotten_with_its_job(store: Store) -> None:
    def submit() -> str:
        return store.submit_build(
            "int8", INT8, "ana", must_exist=False, idempotency_key="k", body_sha256="b"
        ).id

    first = submit()
    store.cancel(first, "ana")
    assert submit() == first
    add(store, "other")
    store.delete_records(1, 100)
    assert submit() != first


def test_the_history_keeps_its_newest_entries(store: Store) -> None:
    for number in range(5):
        store.record("ana", "login failed", str(number))
    store.delete_records(1, 2)
    assert [each.subject for each in store.history()] == ["4", "3"]
    store.delete_records(1, 2)
    store.record("ana", "login failed", "5")
    assert [each.subject for each in store.history()] == ["5", "4", "3"]

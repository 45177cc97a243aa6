"""Any steps in any order, by Hypothesis: what must hold after each of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import select

from serving.control.state import (
    ENDED,
    STAGES,
    GateVerdict,
    GenerationState,
    HistoryEntry,
    Job,
    JobStage,
    Lineup,
    VariantRecord,
)
from serving.control.store.changes import TRANSITIONS, IllegalTransition
from serving.control.store.store import Store
from serving.control.store.tables import GENERATIONS, HISTORY, JOBS, SERVICE, VARIANTS
from serving.errors import Conflict, InvalidRequest, ModelNotFound
from tests.serving.control.store.conftest import Clock
from tests.serving.control.store.states import INT8, PRUNED, digest, gate
from variants.catalog.recipe import Recipe

NAMES = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(1, 4)
ACTORS = st.sampled_from(["ana", "bo"])
VERDICTS = st.sampled_from(["pass", "pass", "fail", "inconclusive"])
REASONS = st.sampled_from([None, "because"])
TABLES = (SERVICE, VARIANTS, GENERATIONS, JOBS, HISTORY)
WITH_FILES = {"rejected", "warming", "published", "draining", "kept"}


class StoreMachine(RuleBasedStateMachine):
    """Calls methods of a store; each succeeds, or raises a documented error and changes nothing."""

    open_empty: Callable[[], Callable[[Clock], Store]]
    """Empties the database and returns what opens it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.open = type(self).open_empty()
        self.store = self.open(self.clock)
        self.digests = 0
        self.variants: dict[str, VariantRecord] = {}
        self.jobs: dict[str, Job] = {}
        self.history: list[HistoryEntry] = []
        self.lineup: Lineup = self.store.lineup()
        self.checked: list[object] = []
        self.may_lose: str | None = None
        self.keys: dict[tuple[str, str], str] = {}

    def teardown(self) -> None:
        self.store.close()

    def attempt(self, step: Callable[[], object]) -> object:
        """Call a method; after an error the state is as it was."""
        self.clock.now += 1
        self.may_lose = None
        try:
            return step()
        except (Conflict, InvalidRequest, ModelNotFound, IllegalTransition):
            assert self.content() == self.checked
            return None

    def content(self) -> list[object]:
        """Return all rows of the tables that these steps change."""
        with self.store._database.read() as transaction:
            return [transaction.connection.execute(select(each)).all() for each in TABLES]

    def pick(self, index: int) -> str:
        """Return the id of a job: mostly an active one, of those any."""
        active = [job.id for job in self.store.jobs(active_only=True)]
        known = active or sorted(self.jobs) or ["none"]
        return known[index % len(known)]

    # People

    @rule(
        name=NAMES,
        actor=ACTORS,
        must_exist=st.booleans(),
        force=st.booleans(),
        reason=REASONS,
        recipe=st.sampled_from([INT8, PRUNED]),
    )
    def submit_build(
        self,
        name: str,
        actor: str,
        must_exist: bool,
        force: bool,
        reason: str | None,
        recipe: Recipe,
    ) -> None:
        self.attempt(
            lambda: self.store.submit_build(
                name, recipe, actor, must_exist=must_exist, force=force, reason=reason
            )
        )

    @rule(name=NAMES, actor=ACTORS, key=st.sampled_from(["k", "l"]), body=st.sampled_from("xy"))
    def submit_with_a_key(self, name: str, actor: str, key: str, body: str) -> None:
        job = self.attempt(
            lambda: self.store.submit_build(
                name,
                INT8,
                actor,
                must_exist=False,
                idempotency_key=key,
                body_sha256=name + body,
            )
        )
        if isinstance(job, Job):
            assert self.keys.setdefault((actor, key), job.id) == job.id

    @rule(name=NAMES, number=NUMBERS, actor=ACTORS, reason=REASONS)
    def submit_publish(self, name: str, number: int, actor: str, reason: str | None) -> None:
        self.attempt(lambda: self.store.submit_publish(name, number, actor, reason=reason))

    @rule(name=NAMES, actor=ACTORS, force=st.booleans())
    def submit_remove(self, name: str, actor: str, force: bool) -> None:
        self.attempt(lambda: self.store.submit_remove(name, actor, force=force))
        self.may_lose = name

    @rule(index=st.integers(0, 5), actor=ACTORS)
    def cancel(self, index: int, actor: str) -> None:
        self.attempt(lambda: self.store.cancel(self.pick(index), actor))

    # Builder and reconciler

    @rule(index=st.integers(0, 5))
    def start_job(self, index: int) -> None:
        self.attempt(lambda: self.store.start_job(self.pick(index)))

    @rule(index=st.integers(0, 5), stage=st.sampled_from(STAGES), share=st.floats(0, 1))
    def report_progress(self, index: int, stage: JobStage, share: float) -> None:
        self.attempt(lambda: self.store.report_progress(self.pick(index), stage, share))

    @rule(index=st.integers(0, 5), verdict=VERDICTS)
    def built(self, index: int, verdict: GateVerdict) -> None:
        self.digests += 1
        self.attempt(
            lambda: self.store.built(self.pick(index), digest(self.digests), gate(verdict))
        )

    @rule(index=st.integers(0, 5))
    def build_at_once(self, index: int) -> None:
        """Start a job and build it, which is rare with single steps."""
        job_id = self.pick(index)
        self.start_job(index)
        self.digests += 1
        self.check()
        self.attempt(lambda: self.store.built(job_id, digest(self.digests), gate()))

    @rule()
    def publish_what_is_warm(self) -> None:
        for name, number in self.store.lineup().warming.items():
            self.publish(name, number)
            self.check()

    @rule(name=NAMES, number=NUMBERS)
    def publish(self, name: str, number: int) -> None:
        self.attempt(lambda: self.store.publish(name, number, 1.0))

    @rule(name=NAMES)
    def routed(self, name: str) -> None:
        self.attempt(lambda: self.store.routed(name))

    @rule(name=NAMES, number=NUMBERS)
    def drained(self, name: str, number: int) -> None:
        self.attempt(lambda: self.store.drained(name, number))

    @rule(name=NAMES)
    def removed(self, name: str) -> None:
        self.attempt(lambda: self.store.removed(name))

    @rule(index=st.integers(0, 5))
    def fail(self, index: int) -> None:
        self.attempt(lambda: self.store.fail(self.pick(index), "broken"))

    @rule(index=st.integers(0, 5))
    def requeue(self, index: int) -> None:
        self.attempt(lambda: self.store.requeue(self.pick(index), "lost"))

    @rule(index=st.integers(0, 5))
    def cancelled(self, index: int) -> None:
        self.attempt(lambda: self.store.cancelled(self.pick(index)))

    @rule(name=NAMES, number=st.integers(0, 3), publish=st.booleans())
    def adopt(self, name: str, number: int, publish: bool) -> None:
        adopted = self.attempt(
            lambda: self.store.adopt(name, digest(number), INT8, publish=publish)
        )
        assert isinstance(adopted, int)
        content = self.content()
        assert self.store.adopt(name, digest(number), INT8) == adopted
        assert self.content() == content

    @rule(kept=st.integers(0, 2))
    def delete_old(self, kept: int) -> None:
        listed = self.attempt(lambda: self.store.delete_old(kept))
        assert listed == self.store.delete_old(kept)

    @rule()
    def reopen(self) -> None:
        before = self.content()
        self.store.close()
        self.store = self.open(self.clock)
        assert self.content() == before

    @invariant()
    def check(self) -> None:
        """Compare the state with what it was before the last step, if it changed."""
        content = self.content()
        if content == self.checked:
            return
        self.checked = content
        snapshot = self.store.snapshot(1.0)
        self.check_generations({each.name: each for each in snapshot.variants})
        self.check_jobs({job.id: job for job in self.store.jobs(limit=1000)})
        self.check_lineup(snapshot.lineup)
        history = list(reversed(self.store.history(1000)))
        assert history[: len(self.history)] == self.history
        self.history = history

    def check_generations(self, variants: dict[str, VariantRecord]) -> None:
        for name, variant in variants.items():
            generations = variant.generations
            assert [each.number for each in generations] == [*range(1, len(generations) + 1)]
            published = [each.number for each in generations if each.state == "published"]
            assert published == ([] if variant.published is None else [variant.published])
            assert sum(each.state in ("building", "warming") for each in generations) <= 1
            assert all(each.digest for each in generations if each.state in WITH_FILES)
            former = self.variants.get(name)
            states: list[GenerationState] = (
                [each.state for each in former.generations] if former else []
            )
            for old, new in zip(states, generations, strict=False):
                assert old == new.state or new.state in TRANSITIONS[old]
            if former and former.published is not None and self.may_lose != name:
                assert variant.published is not None, "it is served until somebody removes it"
        assert self.variants.keys() <= variants.keys()
        self.variants = variants

    def check_jobs(self, jobs: dict[str, Job]) -> None:
        for job in self.jobs.values():
            if job.status in ENDED:
                assert jobs[job.id] == job, "what is over does not change"
        active = [job for job in jobs.values() if job.status not in ENDED]
        assert len({job.variant for job in active}) == len(active)
        states = {
            (each.variant, each.number): each.state
            for variant in self.variants.values()
            for each in variant.generations
        }
        in_progress = {key for key, state in states.items() if state in ("building", "warming")}
        expected = {
            (job.variant, job.generation)
            for job in active
            if job.generation is not None and job.stage not in ("published", "draining")
        }
        assert in_progress == expected
        for job in active:
            if job.generation is not None:
                state = states[job.variant, job.generation]
                assert (job.stage == "warming") == (state == "warming")
        for job in jobs.values():
            assert (job.ended_at is not None) == (job.status in ENDED)
        self.jobs = jobs

    def check_lineup(self, lineup: Lineup) -> None:
        generations = [each for v in self.variants.values() for each in v.generations]
        for mapping, state in ((lineup.published, "published"), (lineup.warming, "warming")):
            expected = {each.variant: each.number for each in generations if each.state == state}
            assert mapping == expected
        assert lineup.revision >= self.lineup.revision
        if lineup.revision == self.lineup.revision:
            assert lineup == self.lineup, "a change of the lineup is a new revision"
        self.lineup = lineup


@pytest.mark.slow
def test_whatever_happens_the_state_stays_consistent(empty: Callable[[], str]) -> None:
    def open_empty() -> Callable[[Clock], Store]:
        url = empty()
        return lambda clock: Store(url, clock)

    machine = type("Machine", (StoreMachine,), {"open_empty": staticmethod(open_empty)})
    examples = 40 if empty().startswith("sqlite") else 10
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

"""Short cuts to states of the store that many tests begin in."""

from __future__ import annotations

from serving.control.state import GateCheck, GateReport, GateVerdict, Job
from serving.control.store.store import Store
from variants.catalog.recipe import Recipe, Step

INT8: Recipe = (Step(technique="int8"),)
PRUNED: Recipe = (Step(technique="activation-pruning", parameters={"threshold": 0.1}),)


def gate(verdict: GateVerdict = "pass") -> GateReport:
    check = GateCheck(
        rule="max_accuracy_drop", verdict=verdict, limit=0.02, found=0.1, text="it loses 10 points"
    )
    return GateReport(verdict=verdict, checks=(check,))


def digest(number: int) -> str:
    return f"{number:064x}"


def add(store: Store, name: str = "int8", actor: str = "ana") -> Job:
    """Submit a build of a variant that is not served."""
    return store.submit_build(name, INT8, actor, must_exist=False)


def build(store: Store, job: Job, verdict: GateVerdict = "pass") -> Job:
    """Run a queued build until its generation is on disk."""
    started = store.start_job(job.id)
    assert started.generation is not None
    return store.built(job.id, digest(1000 + started.generation), gate(verdict))


def publish(store: Store, name: str, number: int) -> None:
    """Publish a warm generation, and end the job that does."""
    store.publish(name, number)
    store.routed(name)


def serve(store: Store, name: str = "int8") -> int:
    """Add or replace a variant until it is published and the former one is drained."""
    present = {each.name: each.published for each in store.variants()}.get(name)
    job = store.submit_build(name, INT8, "ana", must_exist=present is not None)
    number = build(store, job).generation
    assert number is not None
    publish(store, name, number)
    if present is not None:
        store.drained(name, present)
    return number


def states(store: Store, name: str = "int8") -> list[str]:
    """Return the states of all generations of a variant."""
    return [each.state for each in store.variant(name).generations]

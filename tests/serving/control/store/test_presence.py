from __future__ import annotations

from typing import Literal

from serving.control.state import ReplicaReport
from serving.control.store.presence import FORGET_S, GATEWAY_LOST_S
from serving.control.store.store import Store
from tests.serving.control.store.conftest import Clock


def report(
    gateway: str, state: Literal["starting", "warm", "routed"], generation: int = 1
) -> ReplicaReport:
    return ReplicaReport(
        gateway=gateway, variant="int8", generation=generation, state=state, replicas=1, at=0.0
    )


def test_a_report_replaces_the_former_one_of_the_same_gateway(store: Store, clock: Clock) -> None:
    store.report("a", [report("a", "starting"), report("a", "routed", 2)])
    store.report("b", [report("b", "warm")])
    clock.now = 1001.0
    store.report("a", [report("a", "warm")])
    assert [(each.gateway, each.state, each.at) for each in store.reports(GATEWAY_LOST_S)] == [
        ("a", "warm", 1001.0),
        ("b", "warm", 1000.0),
    ]


def test_a_gateway_is_live_as_long_as_it_reports(store: Store, clock: Clock) -> None:
    store.report("a", [report("a", "warm")])
    clock.now += 3
    store.report("b", [])
    assert store.snapshot(3).gateways == {"a", "b"}
    assert store.snapshot(2).gateways == {"b"}
    snapshot = store.snapshot(2)
    assert snapshot.gateways == {"b"}
    assert (snapshot.reports, snapshot.at) == ((), clock.now)
    assert len(store.snapshot(3).reports) == len(store.reports(3)) == 1
    assert store.reports(2) == ()


def test_a_gateway_that_stops_is_forgotten_at_once_and_a_lost_one_later(
    store: Store, clock: Clock
) -> None:
    store.report("a", [report("a", "warm")])
    store.report("b", [report("b", "warm")])
    store.forget("a")
    assert store.snapshot(1).gateways == {"b"}
    clock.now += FORGET_S + 1
    store.report("c", [])
    assert store.snapshot(float(2**31)).gateways == {"c"}
    assert store.reports(float(2**31)) == ()


def test_one_process_has_a_lease_until_it_expires_or_is_released(
    store: Store, clock: Clock
) -> None:
    assert store.acquire_lease("reconciler", "a", 10)
    assert not store.acquire_lease("reconciler", "b", 10)
    assert store.acquire_lease("other", "b", 10)
    clock.now += 9
    assert store.acquire_lease("reconciler", "a", 10)
    clock.now += 9
    assert not store.acquire_lease("reconciler", "b", 10)
    store.release_lease("reconciler", "b")
    assert not store.acquire_lease("reconciler", "b", 10)
    store.release_lease("reconciler", "a")
    assert store.acquire_lease("reconciler", "b", 10)
    clock.now += 10
    assert store.acquire_lease("reconciler", "a", 10)

from __future__ import annotations

import math

import pytest

from serving.routing.latency import LatencyModel
from serving.routing.slots import MAX_STATE_AGE_S, MIN_REMAINING_RATIO, VariantSlots
from tests.serving.builders import exactly


def new_slots(*, cores: float = math.inf, **slots: int) -> VariantSlots:
    """Return the slots of two variants whose batches take 10 ms and 2 ms."""
    cards = {"dense": exactly({1: 0.010}), "int8": exactly({1: 0.002})}
    latency = LatencyModel(cards, lambda: 0.0)
    variant_slots = VariantSlots(latency, {"dense": 0.90, "int8": 0.88}, max_batch=64, cores=cores)
    for variant, count in slots.items():
        variant_slots[variant] = count
    return variant_slots


def test_a_variant_has_no_slots_at_first() -> None:
    slots = new_slots()
    assert (slots["dense"], slots["unknown"]) == (0, 0)
    assert slots.variant_states(0.0) == {}


@pytest.mark.parametrize(
    ("cores", "expected"),
    [pytest.param(math.inf, 3, id="the slots"), pytest.param(2, 2, id="the cores")],
)
def test_slots_and_cores_limit_the_concurrency(cores: float, expected: float) -> None:
    assert new_slots(cores=cores, dense=2, int8=1).concurrency == expected


def test_only_the_named_variants_with_a_live_replica_have_a_state() -> None:
    slots = new_slots(int8=1, dense=1)
    assert list(slots.variant_states(0.0)) == ["dense", "int8"]
    assert list(slots.variant_states(0.0, ("int8", "unknown"))) == ["int8"]
    slots["int8"] = 0
    assert list(slots.variant_states(0.0)) == ["dense"]


def test_a_running_batch_occupies_a_slot_and_a_core_until_it_ends() -> None:
    slots = new_slots(cores=1, dense=1, int8=1)
    number = slots.start("dense", 1, now=5.0)
    assert slots.free_cores == 0
    states = slots.variant_states(5.004)
    assert [each.free_slots for each in states.values()] == [0, 0]
    assert states["int8"].free_in_s == pytest.approx(0.006), "a free slot, but no core"
    running = slots.end(number)
    assert (running.variant, running.size, running.sent) == ("dense", 1, 5.0)
    assert slots.free_cores == 1
    states = slots.variant_states(5.012)
    assert [(each.free_slots, each.free_in_s) for each in states.values()] == [(1, 0), (1, 0)]
    assert states["dense"].batches_sent == 1


def test_an_overdue_batch_is_expected_to_take_some_more_time() -> None:
    slots = new_slots(dense=1)
    slots.start("dense", 1, now=0.0)
    (state,) = slots.variant_states(1.0).values()
    assert state.free_in_s == pytest.approx(MIN_REMAINING_RATIO * 0.010)


def test_variants_are_unavailable_since_the_last_of_them_lost_its_replicas() -> None:
    slots = new_slots(dense=1)
    assert slots.unavailable_since(("int8",)) == -math.inf, "not recorded yet"
    slots.record_outages(1.0)
    assert slots.unavailable_since(("dense", "int8")) is None
    slots["dense"] = 0
    slots.record_outages(2.0)
    slots.record_outages(3.0)
    assert slots.unavailable_since(("int8",)) == 1.0
    assert slots.unavailable_since(("dense", "int8")) == 2.0
    slots["int8"] = 1
    slots.record_outages(4.0)
    slots["int8"] = 0
    slots.record_outages(5.0)
    assert slots.unavailable_since(("dense", "int8")) == 5.0


def test_a_variant_is_overdue_by_its_least_overdue_batch_if_no_slot_is_free() -> None:
    slots = new_slots(dense=2, int8=1)
    slots.start("dense", 1, 0.0)
    assert slots.variant_states(0.050)["dense"].overdue_s == 0.0  # a slot is free
    slots.start("dense", 1, 0.020)
    assert slots.variant_states(0.025)["dense"].overdue_s == 0.0
    assert slots.variant_states(0.050)["dense"].overdue_s == pytest.approx(0.020)
    assert slots.variant_states(0.050)["int8"].overdue_s == 0.0


def test_recent_states_are_computed_once_until_time_passes_or_anything_changes() -> None:
    slots = new_slots(dense=1, int8=1)
    names = ("dense", "int8")
    first = slots.recent_states(1.0, names)
    assert [(each.name, each.free_slots) for each in first] == [("dense", 1), ("int8", 1)]
    assert slots.recent_states(1.0 + MAX_STATE_AGE_S / 2, names) is first
    assert [each.name for each in slots.recent_states(1.0, ("int8",))] == ["int8"]
    assert slots.recent_states(1.0 + 2 * MAX_STATE_AGE_S, names) is not first
    number = slots.start("dense", 1, now=2.0)
    assert [each.free_slots for each in slots.recent_states(2.0, names)] == [0, 1]
    slots.end(number)
    assert [each.free_slots for each in slots.recent_states(2.0, names)] == [1, 1]
    slots["int8"] = 0
    assert [each.name for each in slots.recent_states(2.0, names)] == ["dense"]


def test_variants_that_stay_keep_their_slots_and_batches_and_others_are_forgotten() -> None:
    slots = new_slots(dense=2, int8=1)
    running = slots.start("dense", 1, now=1.0)
    slots["int8"] = 0
    slots.record_outages(1.0)
    slots.set_variants({"better": 0.95, "dense": 0.90})
    assert list(slots.variant_states(1.0)) == ["dense"]
    assert (slots["better"], slots["dense"], slots["int8"]) == (0, 2, 0)
    assert slots.variant_states(1.0)["dense"].free_slots == 1
    assert slots.is_running("dense")
    assert "better" in slots
    assert "int8" not in slots
    slots.set_variants({"dense": 0.90, "int8": 0.88})
    assert slots.unavailable_since(("int8",)) == -math.inf, "the former outage is remembered"
    with pytest.raises(ValueError, match="batches are running on dense"):
        slots.set_variants({"int8": 0.88})
    assert slots.end(running).variant == "dense"
    slots.set_variants({"int8": 0.88})

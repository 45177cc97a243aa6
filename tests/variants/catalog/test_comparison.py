from __future__ import annotations

import pytest

from tests.variants.catalog.cards import around, card, catalog, class_difference, latency
from variants.catalog.catalog import Interval
from variants.catalog.comparison import (
    accuracy_verdict,
    batch_sizes,
    cards_on,
    class_verdict,
    faster_batches,
    frontier_at,
    hardware_keys,
    latencies_at,
    speed_verdict,
)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        pytest.param(0.001, 0.003, "better", id="all above 0"),
        pytest.param(-0.001, 0.003, "within noise", id="0 inside"),
        pytest.param(0.0, 0.003, "within noise", id="0 at the lower end is inside"),
        pytest.param(-0.003, 0.0, "within noise", id="0 at the upper end is inside"),
        pytest.param(-0.003, -0.001, "worse", id="all below 0"),
    ],
)
def test_the_verdict_on_an_accuracy_difference(low: float, high: float, verdict: str) -> None:
    assert accuracy_verdict(Interval(value=(low + high) / 2, low=low, high=high)) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.0021, 0.004, "better"),
        (0.0020, 0.004, "within noise"),
        (-0.004, -0.0020, "within noise"),
        (-0.004, -0.0021, "worse"),
    ],
)
def test_a_difference_up_to_the_margin_is_within_noise(
    low: float, high: float, verdict: str
) -> None:
    difference = Interval(value=(low + high) / 2, low=low, high=high)
    assert accuracy_verdict(difference, margin=0.002) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        pytest.param(1.01, 1.2, "faster", id="all above 1"),
        pytest.param(0.99, 1.2, "same within noise", id="1 inside"),
        pytest.param(1.0, 1.2, "same within noise", id="1 at the end is inside"),
        pytest.param(0.5, 0.9, "slower", id="all below 1"),
    ],
)
def test_the_verdict_on_a_speedup(low: float, high: float, verdict: str) -> None:
    assert speed_verdict(Interval(value=(low + high) / 2, low=low, high=high)) == verdict


@pytest.mark.parametrize(
    ("difference", "p_value", "verdict"),
    [
        pytest.param(-0.03, 0.049, "worse", id="significant loss"),
        pytest.param(0.03, 0.049, "better", id="significant gain"),
        pytest.param(-0.03, 0.05, "within noise", id="not significant"),
        pytest.param(0.0, 1.0, "within noise", id="no difference"),
    ],
)
def test_the_verdict_on_a_class_depends_on_its_p_value(
    difference: float, p_value: float, verdict: str
) -> None:
    assert class_verdict(class_difference(3, around(difference, 0.1), p_value)) == verdict


@pytest.mark.parametrize(
    ("speedups", "ranges"),
    [
        pytest.param((2, 2, 2, 2), ((1, 8),), id="everywhere"),
        pytest.param((0.5, 1, 0.9, 0.5), (), id="nowhere"),
        pytest.param((2, 2, 1.05, 0.5), ((1, 2),), id="up to 2, by the interval"),
        pytest.param((0.5, 1.05, 2, 2), ((4, 8),), id="from 4 on, by the interval"),
        pytest.param((2, 0.5, 0.5, 2), ((1, 1), (8, 8)), id="at both ends"),
        pytest.param((0.5, 2, 2, 0.5), ((2, 4),), id="in the middle"),
    ],
)
def test_the_ranges_of_batch_sizes_at_which_a_variant_is_faster(
    speedups: tuple[float, ...], ranges: tuple[tuple[int, int], ...]
) -> None:
    sizes = (1, 2, 4, 8)
    latencies = [latency(n, 0.001, around(s, 0.1)) for n, s in zip(sizes, speedups, strict=True)]
    assert faster_batches(latencies) == ranges


def test_hardware_keys_are_sorted_newest_first_and_never_mixed() -> None:
    old, new = card(key="old-t1", measured_at="2026-01-01"), card(measured_at="2026-02-01")
    mixed = catalog({"dense": (old, new), "int8": (new,), "unmeasured": ()})
    assert hardware_keys(mixed) == ("cpu-t1", "old-t1")
    assert cards_on(mixed, "cpu-t1") == {"dense": new, "int8": new}
    assert cards_on(mixed, "old-t1") == {"dense": old}


def test_a_variant_is_omitted_at_batch_sizes_without_a_measurement() -> None:
    cards = {
        "dense": card(0.9, latency(1, 0.002), latency(8, 0.008)),
        "int8": card(0.9, latency(1, 0.001)),
    }
    assert batch_sizes(cards) == (1, 8)
    assert list(latencies_at(cards, 8)) == ["dense"]
    assert frontier_at(cards, 1) == {"int8"}
    assert frontier_at(cards, 8) == {"dense"}


def test_the_frontier_uses_accuracy_and_median_latency() -> None:
    cards = {
        "dense": card(0.90, latency(1, 0.003)),
        "int8": card(0.89, latency(1, 0.001)),
        "slow": card(0.89, latency(1, 0.002, around(1.5, 0.1))),
    }
    assert frontier_at(cards, 1) == {"dense", "int8"}

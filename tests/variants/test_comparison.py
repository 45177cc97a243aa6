from __future__ import annotations

import pytest

from tests.variants.cards import around, card, catalog, latency
from variants.catalog import Interval
from variants.comparison import (
    accuracy_verdict,
    batch_sizes,
    cards_on,
    frontier_at,
    hardware_keys,
    latencies_at,
    speed_verdict,
)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        pytest.param(0.001, 0.003, "better", id="all above 0"),
        pytest.param(-0.001, 0.003, "within noise", id="0 inside"),
        pytest.param(0.0, 0.003, "within noise", id="0 at the lower end is not left out"),
        pytest.param(-0.003, 0.0, "within noise", id="0 at the upper end is not left out"),
        pytest.param(-0.003, -0.001, "worse", id="all below 0"),
    ],
)
def test_the_word_for_an_accuracy_difference(low: float, high: float, word: str) -> None:
    assert accuracy_verdict(Interval(value=(low + high) / 2, low=low, high=high)) == word


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        pytest.param(1.01, 1.2, "faster", id="all above 1"),
        pytest.param(0.99, 1.2, "same within noise", id="1 inside"),
        pytest.param(1.0, 1.2, "same within noise", id="1 at the end is not left out"),
        pytest.param(0.5, 0.9, "slower", id="all below 1"),
    ],
)
def test_the_word_for_a_speedup(low: float, high: float, word: str) -> None:
    assert speed_verdict(Interval(value=(low + high) / 2, low=low, high=high)) == word


def test_hardware_comes_newest_first_and_never_mixes() -> None:
    old, new = card(key="old-t1", measured_at="2026-01-01"), card(measured_at="2026-02-01")
    mixed = catalog({"dense": (old, new), "int8": (new,), "unmeasured": ()})
    assert hardware_keys(mixed) == ("cpu-t1", "old-t1")
    assert cards_on(mixed, "cpu-t1") == {"dense": new, "int8": new}
    assert cards_on(mixed, "old-t1") == {"dense": old}


def test_a_variant_that_was_not_measured_at_a_batch_size_is_left_out_there() -> None:
    cards = {
        "dense": card(0.9, latency(1, 0.002), latency(8, 0.008)),
        "int8": card(0.9, latency(1, 0.001)),
    }
    assert batch_sizes(cards) == (1, 8)
    assert list(latencies_at(cards, 8)) == ["dense"]
    assert frontier_at(cards, 1) == {"int8"}
    assert frontier_at(cards, 8) == {"dense"}


def test_the_frontier_is_that_of_accuracy_and_median_latency() -> None:
    cards = {
        "dense": card(0.90, latency(1, 0.003)),
        "int8": card(0.89, latency(1, 0.001)),
        "slow": card(0.89, latency(1, 0.002, around(1.5, 0.1))),
    }
    assert frontier_at(cards, 1) == {"dense", "int8"}

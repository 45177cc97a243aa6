from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing.profile import (
    LatencyQuantiles,
    VariantProfile,
    profiles_of,
    qualifying,
    variant_profiles,
)
from serving.routing.slo import Slo
from tests.serving.builders import profile
from tests.variants.catalog.cards import around, card, catalog, latency

HERE, ELSEWHERE = "cpu-t1", "gpu-t1"

CATALOG = catalog(
    {
        "dense": (card(0.9, latency(1, 0.001), latency(64, 0.016)),),
        "int8": (
            card(0.8, latency(1, 0.009), key=ELSEWHERE),
            card(0.88, latency(1, 0.0005), difference=around(-0.02, 0.005)),
        ),
        "better": (card(0.92, latency(1, 0.001), difference=around(0.02, 0.005)),),
    }
)


def test_a_profile_has_the_values_of_the_report_card_for_this_hardware() -> None:
    assert variant_profiles(CATALOG, HERE)["dense"] == VariantProfile(
        variant="dense",
        accuracy=0.9,
        tier_accuracy=0.9,
        accuracy_drop=0.0,
        agreement=0.98,
        weight_bytes=23_298_088,
        artifact_bytes=23_298_790,
        latencies={
            1: LatencyQuantiles(0.001, 0.002, 0.003),
            64: LatencyQuantiles(0.016, 0.032, 0.048),
        },
    )
    assert variant_profiles(CATALOG, HERE)["int8"].accuracy == 0.88


def test_the_drop_is_the_upper_end_of_its_interval_and_not_negative() -> None:
    profiles = variant_profiles(CATALOG, HERE)
    assert profiles["int8"].accuracy_drop == pytest.approx(0.025)
    assert profiles["better"].accuracy_drop == 0.0


def test_profiles_are_in_catalog_order_or_in_that_of_the_named_variants() -> None:
    assert list(variant_profiles(CATALOG, HERE)) == ["dense", "int8", "better"]
    assert list(variant_profiles(CATALOG, HERE, only=["better", "dense"])) == ["dense", "better"]


def test_the_error_for_an_unknown_variant_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no such variant.*: int4, int6; it has dense, int8,"):
        variant_profiles(CATALOG, HERE, only=["dense", "int6", "int4"])


def test_a_variant_that_was_never_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="variant dense has no report card; run `paretoserve"):
        variant_profiles(catalog({"dense": ()}), HERE)


def test_a_report_card_of_other_hardware_is_used_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="serving.routing.profile"):
        profiles = variant_profiles(CATALOG, ELSEWHERE)
    assert profiles["dense"].accuracy == 0.9
    assert profiles["int8"].accuracy == 0.8
    assert [vars(record)["variant"] for record in caplog.records] == ["dense", "better"]


def test_on_unknown_hardware_all_report_cards_are_of_one_kind() -> None:
    new, old = "new-t1", "old-t1"
    measured = catalog(
        {
            "dense": (
                card(0.9, latency(1, 0.001), key=old),
                card(0.9, latency(1, 0.0003), key=new).model_copy(update={"measured_at": "9999"}),
            ),
            "int8": (card(0.88, latency(1, 0.0005), key=old),),
        }
    )
    profiles = variant_profiles(measured, HERE)
    assert {name: one.latencies[1].p95_s for name, one in profiles.items()} == {
        "dense": 0.002,
        "int8": 0.001,
    }
    assert variant_profiles(measured, HERE, only=["dense"])["dense"].latencies[1].p95_s == 0.0006


NOISE = catalog(
    {
        "dense": (card(0.8958, latency(1, 0.001), difference=around(0, 0)),),
        "activation-pruned": (card(0.8971, latency(1, 0.002), difference=around(0.0013, 0.0031)),),
        "int8": (card(0.8957, latency(1, 0.0003), difference=around(-0.0001, 0.0007)),),
        "tiny": (card(0.8810, latency(1, 0.0001), difference=around(-0.0148, 0.003)),),
    }
)
"""The estimate of the slowest variant is 0.13 points above dense, which is noise."""


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ((), ("int8", "dense", "activation-pruned", "tiny")),
        (("activation-pruned", "dense"), ("dense", "activation-pruned")),
        (("activation-pruned", "int8"), ("int8", "activation-pruned")),
        (("tiny", "activation-pruned"), ("activation-pruned", "tiny")),
    ],
    ids=["all", "without int8", "without dense", "not equal"],
)
def test_of_variants_that_differ_by_noise_the_cheapest_is_first(
    only: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert qualifying(variant_profiles(NOISE, HERE, only), Slo()) == expected


def test_a_margin_makes_more_variants_equal() -> None:
    profiles = variant_profiles(NOISE, HERE, accuracy_margin=0.012)
    assert qualifying(profiles, Slo()) == ("tiny", "int8", "dense", "activation-pruned")


def test_noise_does_not_change_floors() -> None:
    profiles = variant_profiles(NOISE, HERE, accuracy_margin=1.0)
    assert {name: each.accuracy for name, each in profiles.items()} == {
        "dense": 0.8958,
        "activation-pruned": 0.8971,
        "int8": 0.8957,
        "tiny": 0.8810,
    }
    assert qualifying(profiles, Slo(min_accuracy=0.8958)) == ("dense", "activation-pruned")
    assert qualifying(profiles, Slo(max_accuracy_drop=0.001)) == ("int8", "dense")


def test_a_report_card_of_other_hardware_is_compared_with_dense_there() -> None:
    mixed = catalog(
        {
            "dense": (card(0.9, latency(1, 0.001)),),
            "int8": (
                card(0.91, latency(1, 0.0001), difference=around(-0.02, 0.005), key=ELSEWHERE),
            ),
        }
    )
    assert qualifying(variant_profiles(mixed, HERE), Slo()) == ("dense", "int8")


def test_the_cost_of_a_sample_is_that_of_the_most_efficient_batch_size() -> None:
    assert profile(latencies_s={1: 0.001, 8: 0.004, 64: 0.064}).seconds_per_sample == 0.0005


PROFILES = {
    own.variant: own
    for own in (
        profile("cheap", 0.80, {1: 0.0010, 64: 0.002}, drop=0.10),
        profile("quick", 0.85, {1: 0.0002, 64: 0.010}, drop=0.05),
        profile("dense", 0.90, {1: 0.0020, 64: 0.030}, drop=0.00),
    )
}


@pytest.mark.parametrize(
    ("slo", "expected"),
    [
        pytest.param(Slo(), ["dense", "quick", "cheap"], id="accuracy: the most accurate first"),
        pytest.param(
            Slo(objective="latency"), ["quick", "cheap", "dense"], id="latency: the fastest first"
        ),
        pytest.param(
            Slo(objective="cost"), ["cheap", "quick", "dense"], id="cost: the cheapest first"
        ),
        pytest.param(
            Slo(min_accuracy=0.85), ["dense", "quick"], id="a minimum accuracy that is just met"
        ),
        pytest.param(
            Slo(min_accuracy=0.85, objective="cost"),
            ["quick", "dense"],
            id="a minimum accuracy and cost",
        ),
        pytest.param(
            Slo(max_accuracy_drop=0.05), ["dense", "quick"], id="a drop that is just allowed"
        ),
        pytest.param(Slo(max_accuracy_drop=0.0), ["dense"], id="no drop at all"),
        pytest.param(Slo(min_accuracy=0.85, max_accuracy_drop=0.01), ["dense"], id="both limits"),
        pytest.param(Slo(min_accuracy=0.95), [], id="more accurate than all variants"),
        pytest.param(
            Slo(variant="cheap", min_accuracy=0.95), ["cheap"], id="a given variant: no limits"
        ),
        pytest.param(
            Slo(latency_s=1e-9), ["dense", "quick", "cheap"], id="the deadline does not matter here"
        ),
    ],
)
def test_qualifying(slo: Slo, expected: Sequence[str]) -> None:
    assert list(qualifying(PROFILES, slo)) == expected


def test_ties_in_accuracy_are_broken_by_cost_and_ties_in_cost_by_accuracy() -> None:
    profiles = {
        own.variant: own
        for own in (
            profile("dear", 0.9, {1: 0.002}),
            profile("worse", 0.8, {1: 0.001}),
            profile("best", 0.9, {1: 0.001}),
        )
    }
    assert qualifying(profiles, Slo()) == ("best", "dear", "worse")
    assert qualifying(profiles, Slo(objective="cost")) == ("best", "worse", "dear")


shares = st.floats(0, 1)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(shares, shares)),
    shares,
    shares,
    st.sampled_from(["accuracy", "latency", "cost"]),
)
def test_exactly_the_variants_within_both_limits_qualify(
    cards: dict[str, tuple[float, float]], floor: float, most: float, objective: str
) -> None:
    profiles = {
        name: profile(name, accuracy, drop=drop) for name, (accuracy, drop) in cards.items()
    }
    slo = Slo(min_accuracy=floor, max_accuracy_drop=most, objective=objective)  # type: ignore[arg-type]
    qualified = qualifying(profiles, slo)
    assert sorted(qualified) == sorted(
        name for name, (accuracy, drop) in cards.items() if accuracy >= floor and drop <= most
    )


def test_profiles_of_generations_are_compared_with_dense_even_if_it_is_not_served() -> None:
    variants = {"int8": CATALOG.variants["int8"]}
    profiles = profiles_of(variants, CATALOG.variants["dense"], HERE, generations={"int8": 7})
    (profile,) = profiles.values()
    assert (profile.generation, profile.key) == (7, "int8@7")
    expected = variant_profiles(CATALOG, HERE)["int8"]
    assert expected.key == "int8@1"
    assert replace(profile, generation=1) == expected

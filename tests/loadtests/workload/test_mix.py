import math

import pytest

from loadtests.workload.mix import parse_class, parse_mix
from loadtests.workload.workload import SloClass
from serving.routing.slo import Slo
from tests.loadtests.workload.profiles import PROFILES, profile


def test_a_class_is_parsed_with_all_keys() -> None:
    text = (
        "name=strict, share=0.3, latency_ms=20, min_accuracy=0.9, max_accuracy_drop=0.01,"
        "priority=1, objective=latency, variant=int8, size=4"
    )
    slo = Slo(
        latency_s=0.02,
        min_accuracy=0.9,
        max_accuracy_drop=0.01,
        priority=1,
        objective="latency",
        variant="int8",
    )
    assert parse_class(text) == SloClass("strict", slo, share=0.3, size=4)


def test_omitted_keys_have_the_defaults_of_a_request() -> None:
    for text in ("", " ", "anything"):
        assert parse_class(text) == SloClass("anything", Slo())
    assert parse_class("priority=0").slo == Slo()  # the default of the protocol
    assert parse_class("latency_ms=20").slo.min_accuracy == 0
    assert parse_class("size=2").slo.latency_s == math.inf


def test_the_default_name_of_a_class_is_its_text_without_the_share() -> None:
    assert parse_class("share=2,latency_x=2,size=4", PROFILES).name == "latency_x=2,size=4"
    assert parse_class("share=2").name == "anything"


def test_relative_deadlines_are_multiples_of_the_fastest_and_of_dense() -> None:
    assert parse_class("latency_x=2", PROFILES).slo.latency_s == pytest.approx(0.008)
    assert parse_class("dense_x=1.5", PROFILES).slo.latency_s == pytest.approx(0.015)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency=20", "unknown key 'latency'; the keys are name, share, latency_ms, min_accuracy"),
        ("latency_ms=0", "latency_ms must be above 0 milliseconds, got 0"),
        ("latency_ms=inf", "latency_ms must be a number of milliseconds above 0, got 'inf'"),
        ("latency_ms=soon", "latency_ms must be a number of milliseconds above 0, got 'soon'"),
        ("min_accuracy=90", "min_accuracy must be from 0 to 1, got 90"),
        ("max_accuracy_drop=-1", "max_accuracy_drop must be from 0 to 1, got -1"),
        ("objective=speed", "objective must be one of accuracy, latency, cost, got 'speed'"),
        ("priority=1.5", "priority must be a whole number from 0"),
        ("share=0", "share must be a number above 0, got '0'"),
        ("share=nan", "share must be a number above 0, got 'nan'"),
        ("share=all", "share must be a number, got 'all'"),
        ("size=1.5", "size must be a whole number from 1 to 1000000, got '1.5'"),
        ("size=inf", "size must be a whole number from 1 to 1000000, got 'inf'"),
        ("size=0", "size must be a whole number from 1 to 1000000, got '0'"),
        ("latency_x=0", "latency_x must be a number above 0, got '0'"),
        (
            "latency_ms=1,latency_x=1",
            "latency_ms and latency_x both set the deadline; give only one",
        ),
        ("variant=int4", "variant must be one of dense, int8, sparse, got 'int4'"),
        ("name=", "name requires a value: name=VALUE"),
        ("size=1,size=1", "size is repeated"),
    ],
)
def test_an_invalid_value_is_rejected_with_its_key_and_the_valid_values(
    text: str, message: str
) -> None:
    with pytest.raises(ValueError, match="class ") as caught:
        parse_class(text, PROFILES)
    assert repr(text) in str(caught.value)
    assert message in str(caught.value)


def test_a_relative_deadline_requires_profiles_with_its_reference() -> None:
    with pytest.raises(
        ValueError, match="latency_x requires a catalog; without one give latency_ms"
    ):
        parse_class("latency_x=2")
    with pytest.raises(ValueError, match="dense_x requires a catalog with variant dense"):
        parse_class("dense_x=2", {"int8": PROFILES["int8"]})
    with pytest.raises(
        ValueError, match="int4 to be measured at batch size 1; it was measured at 2, 8; give"
    ):
        parse_class("latency_x=2", {"int4": profile("int4", b2=0.1, b8=0.2)})


def test_a_mix_has_its_classes_in_order_and_by_default_one_without_an_slo() -> None:
    classes = parse_mix(["name=a,share=2", "dense_x=2"], PROFILES)
    assert [each.name for each in classes] == ["a", "dense_x=2"]
    assert parse_mix([]) == (SloClass("anything", Slo()),)


def test_classes_with_equal_names_are_rejected() -> None:
    with pytest.raises(
        ValueError, match="two classes have the name 'size=2'; set different names by name"
    ):
        parse_mix(["share=1,size=2", "share=2,size=2"])

from __future__ import annotations

import math

import pytest

from serving.control.gate import describe, judge
from serving.control.settings import Gate
from serving.control.state import GateCheck, GateReport, GateVerdict
from tests.variants.catalog.cards import answers, around, card, class_difference, latency
from variants.catalog.catalog import Interval, ReportCard
from variants.measurement.evaluation import newcombe_interval


def _check(report: GateReport, rule: str) -> GateCheck:
    (check,) = [check for check in report.checks if check.rule == rule]
    return check


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        pytest.param(Interval(value=0.0, low=0.0, high=0.0), "pass", id="no difference"),
        pytest.param(around(0.01, 0.005), "pass", id="a gain"),
        pytest.param(around(-0.005, 0.002), "pass", id="a drop within the limit"),
        pytest.param(Interval(value=-0.01, low=-0.02, high=0.0), "pass", id="just at the limit"),
        pytest.param(around(-0.015, 0.006), "inconclusive", id="the upper end is beyond"),
        pytest.param(around(-0.025, 0.006), "inconclusive", id="the lower end is within"),
        pytest.param(around(-0.05, 0.006), "fail", id="beyond the limit"),
    ],
)
def test_a_drop_is_judged_by_its_interval(difference: Interval, verdict: GateVerdict) -> None:
    report = judge(card(difference=difference), {}, Gate(max_accuracy_drop=0.02))
    check = _check(report, "max_accuracy_drop")
    assert report.verdict == check.verdict == verdict
    assert (check.limit, check.found) == (0.02, -difference.low)
    assert ("would decide" in check.text) == (verdict == "inconclusive")


@pytest.mark.parametrize("lost", [150, 240])
def test_the_stated_number_of_samples_decides(lost: int) -> None:
    def difference(times: float) -> Interval:
        lost_now, both = round(lost * times), round(8_500 * times)
        neither = round(10_000 * times) - both - lost_now
        return newcombe_interval(both=both, first=0, second=lost_now, neither=neither)

    rules = Gate(max_accuracy_drop=0.0165 if lost == 150 else 0.022)
    check = _check(judge(card(difference=difference(1)), {}, rules), "max_accuracy_drop")
    assert check.verdict == "inconclusive"
    needed = int(check.text.split("About ")[1].split()[0].replace(",", ""))
    assert needed > 10_000
    for share, is_decided in ((1.2, True), (0.8, False)):
        more = card(difference=difference(share * needed / 10_000))
        assert (judge(more, {}, rules).verdict != "inconclusive") == is_decided


def test_a_drop_at_the_limit_is_not_decided_by_more_samples() -> None:
    report = judge(card(difference=around(-0.02, 0.005)), {}, Gate(max_accuracy_drop=0.02))
    assert "too close to the limit" in report.checks[0].text


@pytest.mark.parametrize(
    ("drops", "verdict", "label"),
    [
        ({0: around(-0.01, 0.01), 7: around(-0.02, 0.01)}, "pass", 7),
        ({0: around(-0.20, 0.01), 7: around(-0.045, 0.01)}, "fail", 0),
        ({0: around(-0.01, 0.01), 7: around(-0.045, 0.01)}, "inconclusive", 7),
    ],
)
def test_the_worst_class_decides(
    drops: dict[int, Interval], verdict: GateVerdict, label: int
) -> None:
    classes = [class_difference(number, drop) for number, drop in drops.items()]
    report = judge(card(comparison=answers(*classes)), {}, Gate(max_class_drop=0.05))
    check = _check(report, "max_class_drop")
    assert report.verdict == check.verdict == verdict
    assert f"class {label} " in check.text
    if verdict == "inconclusive":
        assert "4,000 test samples of class 7 instead of 1,000" in check.text


@pytest.mark.parametrize(
    ("replicas", "verdict"), [(1, "pass"), (2, "fail")], ids=["one replica", "two replicas"]
)
def test_the_memory_of_all_hosts_counts(replicas: int, verdict: GateVerdict) -> None:
    others = {"dense": card(), "int8": card()}  # 78.8 MB each
    report = judge(card(), others, Gate(memory_bytes=240_000_000), replicas=replicas)
    check = _check(report, "memory_bytes")
    assert (check.verdict, check.found) == (verdict, replicas * 3 * 78_798_848)
    assert report.verdict == verdict


SLOW = (
    latency(1, 0.002, around(0.5, 0.01), {"onnx": 0.001}),
    latency(64, 0.03, around(0.5, 0.01), {"onnx": 0.015}),
)
FAST = (
    latency(1, 0.0005, around(2, 0.1), {"onnx": 0.001}),
    latency(64, 0.0075, around(2, 0.1), {"onnx": 0.015}),
)
WORSE, BETTER = around(-0.01, 0.002), around(0.0, 0.002)


@pytest.mark.parametrize(
    ("candidate", "other", "is_dominated"),
    [
        pytest.param(
            card(0.9, *SLOW, difference=WORSE), card(0.9, *FAST, difference=BETTER), True,
            id="slower and less accurate",
        ),
        pytest.param(
            card(0.9, *SLOW, difference=BETTER), card(0.9, *FAST, difference=BETTER), False,
            id="slower and as accurate within noise",
        ),
        pytest.param(
            card(0.9, SLOW[0], FAST[1], difference=WORSE), card(0.9, *FAST, difference=BETTER),
            False, id="as fast at one batch size",
        ),
        pytest.param(
            card(0.9, *SLOW, difference=WORSE).model_copy(update={"resident_bytes": 1_000}),
            card(0.9, *FAST, difference=BETTER), False, id="smaller",
        ),
        pytest.param(
            card(0.9, *SLOW, difference=WORSE, key="other-cpu"),
            card(0.9, *FAST, difference=BETTER), False, id="measured on other hardware",
        ),
        pytest.param(
            card(0.9, latency(2, 0.1), difference=WORSE), card(0.9, *FAST, difference=BETTER),
            False, id="no batch size in common",
        ),
    ],
)  # fmt: skip
def test_a_variant_is_refused_only_if_another_one_is_shown_to_be_better_in_everything(
    candidate: ReportCard, other: ReportCard, is_dominated: bool
) -> None:
    report = judge(candidate, {"other": other}, Gate())
    check = _check(report, "allow_dominated")
    assert (check.verdict == "fail") == is_dominated
    assert check.text.startswith("other is") == is_dominated
    assert judge(candidate, {"other": other}, Gate(allow_dominated=True)).verdict == "pass"


def test_a_busy_machine_does_not_make_a_variant_look_dominated() -> None:
    # All latencies of the candidate doubled, those of dense in the same turns too.
    busy = (
        latency(1, 0.001, around(2, 0.1), {"onnx": 0.002}),
        latency(64, 0.015, around(2, 0.1), {"onnx": 0.030}),
    )
    other = card(0.9, *FAST, difference=BETTER)
    assert judge(card(0.9, *busy, difference=WORSE), {"other": other}, Gate()).verdict == "pass"


def test_speeds_are_compared_through_a_runtime_of_dense_that_both_cards_have() -> None:
    # Dense is faster in torch in one card; the other card has only onnx.
    in_torch = tuple(
        latency(size, p50, around(0.8, 0.01), {"onnx": 4 * p50, "torch": 0.8 * p50})
        for size, p50 in ((1, 0.001), (64, 0.015))
    )  # four times as fast as dense in onnx
    slow = card(0.9, *FAST, difference=WORSE)  # twice
    assert judge(slow, {"x": card(0.9, *in_torch, difference=BETTER)}, Gate()).verdict == "fail"


def test_the_worst_check_is_the_verdict() -> None:
    rules = Gate(max_accuracy_drop=0.02, memory_bytes=1)
    report = judge(card(difference=around(-0.02, 0.01)), {}, rules)
    assert [check.verdict for check in report.checks] == ["inconclusive", "fail", "pass"]
    assert report.verdict == "fail"
    assert all(math.isfinite(check.found) for check in report.checks if check.found is not None)


def test_the_rules_are_described_in_words() -> None:
    assert len(describe(Gate())) == 2
    rules = Gate(max_class_drop=0.1, memory_bytes=2**30, allow_dominated=True)
    assert describe(rules) == (
        "the accuracy is at most 2.00 points below that of dense, by the upper end of the 95 % "
        "interval",
        "the accuracy in each class is at most 10.00 points below that of dense, by the upper ends "
        "of the joint 95 % intervals",
        "all hosts together use at most 1,024.0 MiB",
    )

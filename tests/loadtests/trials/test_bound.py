"""The bound compared with solutions by hand and with the best of all policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.trials.bound import Bound, Outage, clairvoyant
from loadtests.trials.work import FloatArray
from loadtests.workload.workload import SloClass, Workload
from serving.routing.profile import LatencyQuantiles, VariantProfile
from serving.routing.slo import Slo

ACCURACIES = {"dense": 0.9, "small": 0.8, "tiny": 0.6}

Outcomes = Mapping[str, Callable[[int], Sequence[tuple[float, float]]]]
"""Possible durations of a batch and their probabilities, shortest first, by variant and size."""


def test_one_request_gets_the_most_accurate_variant_that_is_on_time() -> None:
    for latency_s, utility in [(0.012, 0.9), (0.007, 0.8), (0.002, 0.6)]:
        bound = bound_of([0.0], latency_s, {"dense": 0.01, "small": 0.005, "tiny": 0.002})

        assert bound.utility == approximately(utility)
        assert bound.attainment == approximately(1)


def test_an_unattainable_request_counts_as_0() -> None:
    assert bound_of([0.0], 0.004, {"dense": 0.01, "small": 0.005}) == Bound(0, 0)


def test_one_of_two_simultaneous_requests_is_answered_unless_they_fit_into_a_batch() -> None:
    alone = bound_of([0.0, 0.0], 0.01, {"dense": 0.01})
    batched = bound_of([0.0, 0.0], 0.01, {"dense": 0.005}, max_batch=2)
    too_far_apart = bound_of([0.0, 0.001], 0.01, {"dense": 0.005}, max_batch=2)

    assert alone.attainment == approximately(0.5)
    assert batched.attainment == approximately(1)
    assert too_far_apart.attainment == approximately(1)


def test_requests_without_a_common_start_share_no_batch() -> None:
    # a batch of two takes 12 of 13 ms, so its requests must arrive within 1 ms
    times = {"dense": by_size({1: 0.01, 2: 0.012})}

    together = bound_of([0.0, 0.001], 0.013, times, max_batch=2)
    apart = bound_of([0.0, 0.0011], 0.013, times, max_batch=2)

    assert together.attainment == approximately(1)
    assert apart.attainment == approximately(14.1 / 20)


def test_the_bound_uses_the_best_mix_of_three_variants() -> None:
    times = {"dense": 0.02, "small": 0.01, "tiny": 0.005}

    two_small = bound_of([0.0] * 3, 0.04, times)
    all_tiny = bound_of([0.0] * 3, 0.015, times)
    relaxed = bound_of([0.0] * 3, 0.035, times)

    assert two_small.utility * 3 == approximately(0.9 + 2 * 0.8)
    assert all_tiny.utility * 3 == approximately(3 * 0.6)
    assert relaxed.utility * 3 == approximately(2.45)  # half a request by dense


def test_utility_and_attainment_are_maximized_separately() -> None:
    bound = bound_of([0.0] * 2, 0.01, {"dense": 0.01, "tiny": 0.0075}, accuracies={"tiny": 0.1})

    assert bound.utility == approximately(0.9 / 2)
    assert bound.attainment == approximately(1 / 1.5)


def test_floors_and_pins_exclude_the_faster_variant() -> None:
    times = {"dense": 0.01, "tiny": 0.001}
    for slo in (Slo(0.01, min_accuracy=0.7), Slo(0.01, variant="dense")):
        bound = bound_of([0.0, 0.0], 0.0, times, slo=slo)

        assert bound.attainment == approximately(0.5)


def test_random_durations_count_by_their_expectation() -> None:
    times = {"dense": lambda size: [(0.01, 0.75), (0.02, 0.25)]}

    one = bound_of([0.0], 0.015, times)
    two = bound_of([0.0, 0.0], 0.015, times)

    assert one.utility == approximately(0.75 * 0.9)
    # a quarter of the work, min(D, 10 ms), is wasted: an answer on time needs 40/3 of 15 ms
    assert two.attainment == approximately(15 / (40 / 3) / 2, off=0.005)


def test_a_request_of_many_samples_needs_the_work_of_all_of_them() -> None:
    times = {"dense": by_size({1: 0.004, 2: 0.006, 3: 0.008, 4: 0.01})}
    classes = (SloClass("four", Slo(0.01), size=4),)

    bound = bound_of([0.0, 0.0], 0.0, times, classes=classes, max_batch=4)

    assert bound.attainment == approximately(0.5)


def test_a_variant_with_one_slot_uses_one_core_of_two() -> None:
    one_slot = bound_of([0.0] * 2, 0.01, {"dense": 0.01}, cores=2)
    two_slots = bound_of([0.0] * 2, 0.01, {"dense": 0.01}, cores=2, slots={"dense": 2})
    two_variants = bound_of([0.0] * 2, 0.01, {"dense": 0.01, "small": 0.01}, cores=2)

    assert one_slot.attainment == approximately(0.5)
    assert two_slots.attainment == approximately(1)
    assert two_variants.utility == approximately((0.9 + 0.8) / 2)


def test_a_request_without_a_deadline_gets_the_most_accurate_variant() -> None:
    classes = (SloClass("no deadline", Slo()), SloClass("deadline", Slo(0.01)))

    bound = bound_of([0.0, 0.0], 0.0, {"dense": 0.01, "tiny": 0.01}, classes=classes)

    assert bound.utility == approximately(0.9)
    assert bound.attainment == approximately(1)


def test_an_outage_removes_its_slot_for_its_duration() -> None:
    times = {"dense": 0.01, "tiny": 0.01}

    bound = bound_of([0.0, 0.02], 0.01, times, outages=[Outage("dense", 0.0, 0.01)])

    assert bound.utility == approximately((0.6 + 0.9) / 2)


def test_after_an_outage_a_request_may_be_sent_again() -> None:
    times = {"dense": lambda size: [(0.01, 0.75), (0.02, 0.25)]}

    bound = bound_of([0.0], 0.015, times, outages=[Outage("dense", 1.0, 2.0)])

    assert bound.utility == approximately(0.9)


def test_a_request_without_a_deadline_and_a_qualifying_variant_counts_as_0() -> None:
    assert bound_of([0.0], 0.0, {"tiny": 0.01}, slo=Slo(min_accuracy=0.7)) == Bound(0, 0)


def test_the_bound_of_a_workload_in_parts_is_nearly_as_tight_as_that_of_each_part() -> None:
    arrivals_s = np.sort(np.random.default_rng(4).uniform(0, 1, 1500))
    times = {"dense": 0.002, "tiny": 0.0005}

    once = bound_of(arrivals_s, 0.004, times)
    thrice = bound_of(np.concatenate([arrivals_s, arrivals_s + 2, arrivals_s + 4]), 0.004, times)

    # 4,500 requests are three programmes; each cut between them adds at most two requests
    assert 0.5 < once.attainment < 1
    assert once.utility - 1e-6 <= thrice.utility <= once.utility + 4 / 4500
    assert once.attainment - 1e-6 <= thrice.attainment <= once.attainment + 4 / 4500


@st.composite
def instances(draw: st.DrawFn) -> tuple[list[float], tuple[SloClass, ...], list[int], Outcomes]:
    """Draw up to five requests of two classes, and two variants with random durations; whole ms."""
    count = draw(st.integers(1, 5))
    arrivals = sorted(draw(st.lists(st.integers(0, 20), min_size=count, max_size=count)))
    deadlines = draw(st.lists(st.integers(2, 25), min_size=2, max_size=2))
    floor = draw(st.sampled_from([0.0, 0.85]))
    classes = (
        SloClass("any", Slo(deadlines[0] / 1e3)),
        SloClass("accurate", Slo(deadlines[1] / 1e3, min_accuracy=floor)),
    )
    class_of = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    outcomes = {}
    for name in ("dense", "small"):
        alone = draw(st.integers(1, 10))
        more = draw(st.integers(0, 4))
        slower = draw(st.sampled_from([0, 0, 3, 10]))
        outcomes[name] = _linear(alone, more, slower)
    return [each / 1e3 for each in arrivals], classes, class_of, outcomes


@settings(max_examples=150, deadline=None)
@given(instances(), st.sampled_from([None, 0.0005, 0.004]))
def test_no_policy_exceeds_the_bound_on_one_core(drawn: Any, bin_s: float | None) -> None:
    arrivals_s, classes, class_of, outcomes = drawn

    bound = bound_of(
        arrivals_s, 0.0, outcomes, classes=classes, class_of=class_of, max_batch=3, bin_s=bin_s
    )

    count = len(arrivals_s)
    best = best_policy(arrivals_s, classes, class_of, outcomes, ACCURACIES)
    max_on_time = best_policy(
        arrivals_s, classes, class_of, outcomes, dict.fromkeys(ACCURACIES, 1.0)
    )
    assert best / count <= bound.utility + 1e-6
    assert max_on_time / count <= bound.attainment + 1e-6


@settings(max_examples=50, deadline=None)
@given(instances(), st.floats(0.5, 3), st.floats(0, 0.02))
def test_more_cores_and_more_time_never_lower_the_bound(
    drawn: Any, more_cores: float, more_s: float
) -> None:
    arrivals_s, classes, class_of, outcomes = drawn
    bin_s = 0.001
    later = tuple(
        SloClass(one.name, Slo(one.slo.latency_s + more_s, one.slo.min_accuracy)) for one in classes
    )

    def bound(classes: tuple[SloClass, ...], cores: float) -> Bound:
        return bound_of(
            arrivals_s, 0.0, outcomes, classes=classes, class_of=class_of, max_batch=3,
            cores=cores, slots={"dense": 4, "small": 4}, bin_s=bin_s,
        )  # fmt: skip

    base = bound(classes, 0.5)
    for other in (bound(classes, 0.5 + more_cores), bound(later, 0.5)):
        assert base.utility <= other.utility + 1e-6
        assert base.attainment <= other.attainment + 1e-6


def test_shorter_bins_give_tighter_bounds() -> None:
    rng = np.random.default_rng(2)
    arrivals_s = np.cumsum(rng.gamma(0.25, 0.004, 300))
    times = {"dense": 0.004, "tiny": 0.001}

    bounds = [
        bound_of(arrivals_s, 0.008, times, cores=2, max_batch=4, bin_s=0.008 / n).utility
        for n in (1, 2, 4, 8)
    ]

    assert all(finer <= coarser + 1e-9 for coarser, finer in pairwise(bounds))
    assert bounds[0] - bounds[-1] > 0.001


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"slots": {"other": 1}}, "all variants of slots; other is missing", id="unknown variant"
        ),
        pytest.param({"max_batch": 0}, "one has 1 samples", id="request larger than a batch"),
    ],
)
def test_invalid_arguments_are_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bound_of([0.0], 0.01, {"dense": 0.01}, **changes)


def bound_of(
    arrivals_s: Sequence[float] | FloatArray,
    latency_s: float,
    times: Mapping[str, Any],
    *,
    slo: Slo | None = None,
    classes: tuple[SloClass, ...] = (),
    class_of: Sequence[int] = (),
    accuracies: Mapping[str, float] = ACCURACIES,
    max_batch: int = 1,
    cores: float = 1,
    slots: Mapping[str, int] | None = None,
    **options: Any,
) -> Bound:
    """Return the bound of requests; `times` are seconds, or outcomes by batch size."""
    classes = classes or (SloClass("all", slo or Slo(latency_s)),)
    alternating = np.arange(len(arrivals_s)) % len(classes)
    workload = Workload(
        name="test",
        arrivals_s=np.asarray(arrivals_s, float),
        class_of=np.array(class_of or alternating, np.int16),
        classes=classes,
        seconds=1.0,
    )
    profiles = {
        name: VariantProfile(
            name,
            {**ACCURACIES, **accuracies}[name],
            {**ACCURACIES, **accuracies}[name],
            0.0,
            1.0,
            0,
            0,
            {1: LatencyQuantiles(0.01, 0.01, 0.01)},
        )
        for name in times
    }
    return clairvoyant(
        workload,
        profiles,
        {
            name: DiscreteTimes(constant_time(one) if isinstance(one, float) else one)
            for name, one in times.items()
        },
        cores=cores,
        slots=slots or dict.fromkeys(times, 1),
        max_batch=max_batch,
        **options,
    )


def best_policy(
    arrivals_s: Sequence[float],
    classes: tuple[SloClass, ...],
    class_of: Sequence[int],
    outcomes: Outcomes,
    accuracies: Mapping[str, float],
    max_batch: int = 3,
) -> float:
    """Return the expected sum of accuracies of answers on time of the best policy on one core.

    All orders of batches that run to completion are tried; choices depend on earlier durations.
    """
    slos = [classes[one].slo for one in class_of]
    ends_s = [arrival_s + slo.latency_s for arrival_s, slo in zip(arrivals_s, slos, strict=True)]

    @cache
    def best(now_s: float, left: frozenset[int]) -> float:
        most = 0.0
        # overdue requests count 0 and make no batch faster
        left = frozenset(one for one in left if now_s < ends_s[one])
        for size in range(1, min(max_batch, len(left)) + 1):
            for batch in combinations(sorted(left), size):
                start_s = max(now_s, *(arrivals_s[one] for one in batch))
                for name, outcomes_of in outcomes.items():
                    if any(accuracy_of(name) < slos[one].min_accuracy for one in batch):
                        continue
                    if start_s + outcomes_of(size)[0][0] > max(ends_s[one] for one in batch) + 1e-9:
                        continue
                    most = max(most, expected(start_s, left, batch, name))
        return most

    def expected(start_s: float, left: frozenset[int], batch: tuple[int, ...], name: str) -> float:
        total = 0.0
        for took_s, chance in outcomes[name](len(batch)):
            end_s = start_s + took_s
            in_time = sum(end_s <= ends_s[one] + 1e-9 for one in batch)
            total += chance * (in_time * accuracies[name] + best(end_s, left - set(batch)))
        return total

    return best(0.0, frozenset(range(len(arrivals_s))))


def accuracy_of(name: str) -> float:
    return ACCURACIES[name]


def approximately(value: float, off: float = 1e-5) -> Any:
    return pytest.approx(value, abs=off)


def constant_time(took_s: float) -> Callable[[int], list[tuple[float, float]]]:
    return lambda size: [(took_s, 1.0)]


def by_size(times_s: Mapping[int, float]) -> Callable[[int], list[tuple[float, float]]]:
    return lambda size: [(times_s[size], 1.0)]


def _linear(alone: int, more: int, slower: int) -> Callable[[int], list[tuple[float, float]]]:
    def outcomes_of(size: int) -> list[tuple[float, float]]:
        quick_ms = alone + more * (size - 1)
        if not slower:
            return [(quick_ms / 1e3, 1.0)]
        return [(quick_ms / 1e3, 0.75), ((quick_ms + slower) / 1e3, 0.25)]

    return outcomes_of


@dataclass(frozen=True)
class DiscreteTimes:
    """Batch times with few possible values."""

    outcomes: Callable[[int], Sequence[tuple[float, float]]]

    def quantile_s(self, size: int, u: float) -> float:
        for took_s, chance in self.outcomes(size):
            if u <= chance:
                return took_s
            u -= chance
        return took_s

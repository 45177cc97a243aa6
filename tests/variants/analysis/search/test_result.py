"""The claims of a search, on artificial counts of 1,000 samples in each part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from variants.analysis.search.goal import Goal
from variants.analysis.search.result import Candidate, confirm_in_order, look_confidence, pareto
from variants.analysis.search.store import Measurement, PairCounts
from variants.catalog.catalog import Interval

GOAL = Goal(max_drop=0.01, least="parameters")


def pairs(lost: int) -> PairCounts:
    return PairCounts(both=900 - lost, candidate=0, dense=lost, neither=100)


def candidate(name: str, lost: int, confirmed_lost: int, parameters: int) -> Candidate:
    measured = Measurement(
        selection=pairs(lost),
        confirmation=pairs(confirmed_lost),
        parameters=parameters,
        bytes=4 * parameters,
        latency_s=0.001,
        dense_latency_s=0.002,
        speedup=Interval(value=2, low=1.9, high=2.1),
    )
    return Candidate(name, (), measured)


def names(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.name for candidate in candidates]


def test_the_pareto_set_leaves_out_dominated_candidates() -> None:
    mild, strong = candidate("mild", 1, 0, 900), candidate("strong", 4, 0, 200)
    beaten, equal = candidate("beaten", 4, 0, 300), candidate("equal", 4, 0, 200)
    assert names(pareto([mild, strong, beaten, equal], GOAL)) == ["mild", "strong", "equal"]


def test_the_first_failure_ends_the_tests() -> None:
    order = [
        candidate("safe", 0, 0, 900),
        candidate("unlucky", 1, 30, 800),
        candidate("fine", 2, 0, 100),
    ]
    assert confirm_in_order(order, GOAL, 0.95) == {
        "safe": "confirmed",
        "unlucky": "not confirmed",
        "fine": "not tested",
    }


def test_selection_alone_never_confirms() -> None:
    assert confirm_in_order([candidate("lucky", 0, 30, 100)], GOAL, 0.95) == {
        "lucky": "not confirmed"
    }


def test_all_looks_together_keep_the_allowed_error_probability() -> None:
    assert look_confidence(GOAL, 1) == pytest.approx(0.95)
    # A claim is one end of a two-sided interval, so its error probability is half as large.
    spent = sum((1 - look_confidence(GOAL, k)) / 2 for k in range(1, 2000))
    assert spent == pytest.approx(0.05, abs=1e-4)
    assert spent < 0.05


def test_the_claims_hold_with_their_confidence() -> None:
    """Candidates that truly lose slightly too much are confirmed in at most 5 % of the searches.

    There are 400 searches of ten candidates each. The first test in the order decides.
    """
    random = np.random.default_rng(0)
    confirmed = 0
    for _ in range(400):
        candidates = []
        for number in range(10):
            parts = random.multinomial(1000, (0.88, 0.01, 0.0201, 0.0899), size=2)
            selection, confirmation = (
                PairCounts(both=int(a), candidate=int(b), dense=int(c), neither=int(d))
                for a, b, c, d in parts
            )
            template = candidate(str(number), 0, 0, 100)
            measured = template.measured.model_copy(
                update={"selection": selection, "confirmation": confirmation}
            )
            candidates.append(Candidate(template.name, (), measured))
        order = sorted(candidates, key=lambda c: -c.measured.selection.difference(0.95).low)
        confirmed += "confirmed" in confirm_in_order(order, GOAL, 0.95).values()
    assert confirmed / 400 <= 0.05

"""What may be claimed: on made-up counts, of 1,000 samples in each part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from variants.analysis.search.goal import Goal
from variants.analysis.search.ledger import Measured, Pairs
from variants.analysis.search.result import Candidate, judge, look_confidence, pareto
from variants.catalog.catalog import Interval

GOAL = Goal(max_drop=0.01, least="parameters")


def pairs(lost: int) -> Pairs:
    return Pairs(both=900 - lost, candidate=0, dense=lost, neither=100)


def candidate(name: str, lost: int, confirmed_lost: int, parameters: int) -> Candidate:
    measured = Measured(
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


def test_the_pareto_set_leaves_out_what_another_beats_on_both() -> None:
    mild, strong = candidate("mild", 1, 0, 900), candidate("strong", 4, 0, 200)
    beaten, equal = candidate("beaten", 4, 0, 300), candidate("equal", 4, 0, 200)
    assert names(pareto([mild, strong, beaten, equal], GOAL)) == ["mild", "strong", "equal"]


def test_the_first_that_fails_ends_the_tests() -> None:
    order = [
        candidate("safe", 0, 0, 900),
        candidate("unlucky", 1, 30, 800),
        candidate("fine", 2, 0, 100),
    ]
    assert judge(order, GOAL, 0.95) == {
        "safe": "confirmed",
        "unlucky": "not confirmed",
        "fine": "not tested",
    }


def test_selection_alone_never_confirms() -> None:
    assert judge([candidate("lucky", 0, 30, 100)], GOAL, 0.95) == {"lucky": "not confirmed"}


def test_all_looks_together_err_no_more_often_than_was_allowed() -> None:
    assert look_confidence(GOAL, 1) == pytest.approx(0.95)
    # A claim is one end of a two-sided interval, so it errs half as often.
    spent = sum((1 - look_confidence(GOAL, k)) / 2 for k in range(1, 2000))
    assert spent == pytest.approx(0.05, abs=1e-4)
    assert spent < 0.05


def test_the_claims_hold_as_often_as_they_say() -> None:
    """Candidates that truly lose just too much are confirmed in no more than 5 % of all searches.

    Ten of them in each search, 400 searches: by the order of the tests alone, the first decides.
    """
    random = np.random.default_rng(0)
    confirmed = 0
    for _ in range(400):
        candidates = []
        for number in range(10):
            parts = random.multinomial(1000, (0.88, 0.01, 0.0201, 0.0899), size=2)
            selection, confirmation = (
                Pairs(both=int(a), candidate=int(b), dense=int(c), neither=int(d))
                for a, b, c, d in parts
            )
            made = candidate(str(number), 0, 0, 100)
            measured = made.measured.model_copy(
                update={"selection": selection, "confirmation": confirmation}
            )
            candidates.append(Candidate(made.name, (), measured))
        order = sorted(candidates, key=lambda c: -c.measured.selection.difference(0.95).low)
        confirmed += "confirmed" in judge(order, GOAL, 0.95).values()
    assert confirmed / 400 <= 0.05

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from serving.routing.policy.baselines.round_robin import round_robin
from serving.routing.policy.state import Dispatch
from tests.serving.routing.policy.states import (
    DENSE,
    INT8,
    PRUNED,
    chooser,
    lane,
    router_state,
    variant_state,
)

choose = chooser(round_robin)


def test_each_variant_gets_the_same_number_of_batches() -> None:
    variants = {variant.name: variant for variant in (DENSE, PRUNED, INT8)}
    order = []
    for _ in range(9):
        decision = round_robin(router_state([lane(1.0)], *variants.values()))
        assert isinstance(decision, Dispatch)
        order.append(decision.variant)
        chosen = variants[decision.variant]
        variants[decision.variant] = replace(chosen, batches_sent=chosen.batches_sent + 1)
    assert order[:4] == ["dense", "pruned", "int8", "dense"]
    assert Counter(order) == {"dense": 3, "pruned": 3, "int8": 3}


def test_a_busy_variant_is_waited_for_in_its_turn() -> None:
    busy = variant_state("dense", 0.010, busy_s=0.005)
    assert choose([lane(1.0)], busy, variant_state("int8", 0.002, batches_sent=1)) == (
        "wait",
        0.005,
    )


def test_a_variant_that_cannot_be_in_time_is_skipped() -> None:
    assert choose([lane(0.004)], DENSE, variant_state("int8", 0.002, batches_sent=1)) == ("int8", 1)


def test_batches_are_as_large_as_the_slack_allows() -> None:
    assert choose([lane(*[0.020] * 40)], DENSE) == ("dense", 8)

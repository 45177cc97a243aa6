from __future__ import annotations

import pytest

from loadtests.client.service import Probe
from loadtests.closed_loop.classes import CLASSES, OPTIONS, derive_slos

PROBES = {"dense": Probe(0.9, 4.0), "sparse": Probe(0.89, 3.0), "int8": Probe(0.84, 1.0)}
LATENCY, ACCURACY = "x-slo-latency-ms", "x-slo-min-accuracy"


def test_the_slo_of_each_class_is_that_of_the_table() -> None:
    assert derive_slos(PROBES, {}) == {
        "strict-latency": {LATENCY: 3.0},
        "strict-accuracy": {LATENCY: 40.0, ACCURACY: 0.9},
        "balanced": {LATENCY: 20.0, ACCURACY: 0.87},
        "none": {},
    }
    assert tuple(derive_slos(PROBES, {})) == CLASSES


def test_the_best_accuracy_is_not_rounded() -> None:
    best = 0.1 + 0.2
    floor = derive_slos({"dense": Probe(best, 1.0)}, {})["strict-accuracy"][ACCURACY]
    assert float(repr(floor)) == best


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_replaces_its_number_only(option: str) -> None:
    name, header = OPTIONS[option]
    replaced = derive_slos(PROBES, {**dict.fromkeys(OPTIONS), option: 0.5})
    derived = derive_slos(PROBES, {})
    assert replaced[name] == {**derived[name], header: 0.5}
    assert {k: v for k, v in replaced.items() if k != name} == {
        k: v for k, v in derived.items() if k != name
    }

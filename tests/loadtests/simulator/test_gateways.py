"""Several simulated gateways over the same hosts, over enough requests for each to learn."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from loadtests.simulator.simulate import SimulatedService, simulate
from loadtests.trials.outcomes import Outcomes
from loadtests.workload.arrivals import Poisson
from loadtests.workload.capacity import capacity_per_s
from loadtests.workload.draw import draw
from loadtests.workload.workload import SloClass
from serving.routing.policy.pareto import pareto
from serving.routing.slo import Slo
from tests.loadtests.simulator.services import OFFERS

CORES = 2
REQUESTS = 8_000
LEARNED = 0.25
"""Share of the batches that is left out: each gateway learns by itself what the others take."""

alone_and_several = pytest.mark.parametrize("gateways", [1, 2, 4])


@cache
def run(gateways: int) -> Outcomes:
    """Half of what dense could serve, which is little for INT8."""
    rate_per_s = 0.5 * capacity_per_s(OFFERS, cores=CORES)
    made = draw(
        Poisson(), [SloClass("any", Slo(latency_s=0.030))], rate_per_s, REQUESTS / rate_per_s, 0
    )
    service = SimulatedService(OFFERS, cores=CORES, gateways=gateways)
    return simulate(service, made, pareto, name="pareto")


@alone_and_several
def test_of_the_batches_predicted_to_be_in_time_95_percent_are(gateways: int) -> None:
    batches = run(gateways).batches
    assert batches is not None
    settled = slice(int(LEARNED * len(batches.size)), None)
    within = batches.took_s[settled] <= batches.predicted_s[settled]
    assert 0.93 <= np.mean(within) <= 0.97


@alone_and_several
def test_hardly_anyone_is_late_though_no_gateway_knows_of_another(gateways: int) -> None:
    assert np.mean(run(gateways).on_time) > 0.99


def test_more_gateways_send_smaller_batches_and_pay_with_accuracy() -> None:
    sizes, accuracies = [], []
    for gateways in (1, 2, 4):
        found = run(gateways)
        assert found.batches is not None
        sizes.append(found.batches.size.mean())
        by_variant = np.array([OFFERS[name].accuracy for name in found.variants])
        accuracies.append(by_variant[found.variant[found.on_time]].mean())
    assert sizes[0] > sizes[1] > sizes[2]
    assert accuracies[0] > accuracies[1] > accuracies[2] > OFFERS["int8"].accuracy

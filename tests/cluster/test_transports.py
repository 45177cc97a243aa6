from __future__ import annotations

import pytest

from loadtests.benchmarks.closed_loops import measure
from loadtests.benchmarks.transports import REFERENCE, transports, transports_grid
from loadtests.client.service import connect
from serving.gateway.description import Ports
from tests.service import RunningService

pytestmark = pytest.mark.cluster


def test_every_transport_is_answered_and_compared_with_binary_http(
    service: RunningService,
) -> None:
    scenarios = transports(Ports(service.port, service.grpc_port), connect(service.url), samples=2)
    points = measure(scenarios, clients=[2], rounds=1, seconds=0.05)
    grid = transports_grid(points, "")
    assert [row[0] for row in grid.rows] == [scenario.name for scenario in scenarios]
    assert [row[-1] for row in grid.rows if row[0] == REFERENCE] == ["1.00"]


def test_a_refused_request_fails_the_benchmark(service: RunningService) -> None:
    description = connect(service.url)
    description.metadata["inputs"][0]["shape"][1] = 5
    for scenario in transports(Ports(service.port, service.grpc_port), description, samples=1):
        with pytest.raises(RuntimeError, match=rf"{scenario.name}: \d+ requests failed"):
            measure([scenario], clients=[1], rounds=1, seconds=0.05)

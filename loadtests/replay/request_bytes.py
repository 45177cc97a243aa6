"""Builds the bytes of every request of a workload before the first one is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from loadtests.client import binary
from loadtests.client.http import build_post_request
from loadtests.client.service import ServiceDescription
from loadtests.workload.workload import SloClass, Workload
from serving.routing.slo import Slo

VARIETY: Final = 4
"""Number of different messages per class, so that the service cannot reuse one input."""


def build_requests(
    service: ServiceDescription, path: str, workload: Workload, seed: int
) -> list[bytes]:
    """Return for each request an HTTP message with binary tensors of random values.

    The requests of a class share `VARIETY` messages, so that long workloads fit into memory.
    """
    rng = np.random.default_rng(seed)
    datatypes = {spec["name"]: spec["datatype"] for spec in service.metadata["inputs"]}

    def build_message(slo_class: SloClass) -> bytes:
        inputs = binary.random_inputs(service.metadata, rng, slo_class.size)
        request = binary.build_request(inputs, datatypes, slo_parameters(slo_class.slo))
        return build_post_request(path, request.body, request.headers)

    messages = [build_message(each) for each in workload.classes for _ in range(VARIETY)]
    numbers = workload.class_of * VARIETY + rng.integers(0, VARIETY, len(workload))
    return [messages[number] for number in numbers.tolist()]


def slo_parameters(slo: Slo) -> Mapping[str, Any]:
    """Return the V2 request parameters that express an SLO, without those that are defaults."""
    default = Slo()
    parameters: dict[str, Any] = {}
    if slo.latency_s != default.latency_s:
        parameters["slo_latency_ms"] = slo.latency_s * 1e3
    for name in ("min_accuracy", "max_accuracy_drop", "objective", "priority", "variant"):
        value = getattr(slo, name)
        if value != getattr(default, name):
            parameters[name] = value
    return parameters

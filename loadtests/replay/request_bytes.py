"""The bytes of every request of a workload, written before the first is sent."""

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
"""Different inputs for each class: the service may not know them again."""


def build_requests(
    service: ServiceDescription, path: str, workload: Workload, seed: int
) -> list[bytes]:
    """Return for each request a whole HTTP message with binary tensors of random values.

    Requests of a class share `VARIETY` messages, so that an hour of them fits into memory.
    """
    rng = np.random.default_rng(seed)
    datatypes = {spec["name"]: spec["datatype"] for spec in service.metadata["inputs"]}

    def message(of: SloClass) -> bytes:
        inputs = binary.random_inputs(service.metadata, rng, of.size)
        request = binary.build_request(inputs, datatypes, slo_parameters(of.slo))
        return build_post_request(path, request.body, request.headers)

    messages = [message(each) for each in workload.classes for _ in range(VARIETY)]
    which = workload.class_of * VARIETY + rng.integers(0, VARIETY, len(workload))
    return [messages[number] for number in which.tolist()]


def slo_parameters(slo: Slo) -> Mapping[str, Any]:
    """Return the parameters of the protocol by which a request asks for this; no more than that."""
    nothing = Slo()
    asked: dict[str, Any] = {}
    if slo.latency_s != nothing.latency_s:
        asked["slo_latency_ms"] = slo.latency_s * 1e3
    for name in ("min_accuracy", "max_accuracy_drop", "objective", "priority", "variant"):
        value = getattr(slo, name)
        if value != getattr(nothing, name):
            asked[name] = value
    return asked

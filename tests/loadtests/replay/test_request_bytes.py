from __future__ import annotations

import pytest

from loadtests.client.service import ServiceDescription
from loadtests.replay.request_bytes import build_requests, slo_parameters
from loadtests.workload.workload import SloClass
from serving.protocol.http.codec import parse_request
from serving.routing.slo import Slo, parse
from tests.loadtests.replay.workloads import workload

SERVICE = ServiceDescription(
    "http://localhost",
    {
        "name": "shirts",
        "versions": ["dense"],
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 4]}],
    },
)
CLASSES = (
    SloClass("small", Slo(latency_s=0.02, min_accuracy=0.5)),
    SloClass("large", Slo(priority=1), size=3),
)


@pytest.mark.parametrize(
    "slo",
    [
        Slo(),
        Slo(latency_s=0.0123),
        Slo(min_accuracy=0.9, max_accuracy_drop=0.01),
        Slo(objective="cost", priority=3),
        Slo(latency_s=1.0, variant="int8"),
    ],
)
def test_parameters_express_the_slo_without_defaults(slo: Slo) -> None:
    assert parse(slo_parameters(slo), {}, Slo()) == slo
    assert len(slo_parameters(slo)) == sum(
        getattr(slo, name) != getattr(Slo(), name) for name in Slo.__slots__
    )


def test_each_request_has_the_slo_and_the_size_of_its_class() -> None:
    load = workload([0.0] * 20, CLASSES, [0, 1] * 10)
    messages = build_requests(SERVICE, SERVICE.path, load, seed=0)
    for message, place in zip(messages, load.class_of, strict=True):
        head, _, body = message.partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v2/models/shirts/infer HTTP/1.1\r\n")
        fields = dict(line.split(b": ") for line in head.split(b"\r\n")[1:])
        assert int(fields[b"Content-Length"]) == len(body)
        parsed = parse_request(body, int(fields[b"Inference-Header-Content-Length"]))
        assert parsed.inputs["pixels"].shape == (CLASSES[place].size, 4)
        assert parsed.binary_output
        assert parse(parsed.parameters, {}, Slo()) == CLASSES[place].slo


def test_inputs_differ_within_a_class_and_are_determined_by_the_seed() -> None:
    load = workload([0.0] * 50)
    messages = build_requests(SERVICE, "/", load, seed=1)
    assert len(set(messages)) == 4
    assert messages == build_requests(SERVICE, "/", load, seed=1)
    assert messages != build_requests(SERVICE, "/", load, seed=2)
